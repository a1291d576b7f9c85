sidespool spool trim --spool . --retain 24
