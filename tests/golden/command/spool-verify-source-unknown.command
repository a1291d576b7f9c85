sidespool spool verify --spool . orders
