sidespool spool dump --spool . orders --to 99999999999999999999
