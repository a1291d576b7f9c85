sidespool spool ls --spool . ../orders
