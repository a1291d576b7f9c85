sidespool spool trim --spool . orders
