sidespool spool trim --spool . --retain 99999999999999d
