sidespool spool trim --spool . --retain forever
