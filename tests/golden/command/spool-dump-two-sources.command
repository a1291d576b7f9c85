sidespool spool dump --spool . a b
