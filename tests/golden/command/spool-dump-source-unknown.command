sidespool spool dump --spool . orders
