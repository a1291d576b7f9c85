sidespool spool ls --spool . orders orders
