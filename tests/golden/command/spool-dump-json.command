sidespool spool dump --spool . orders --json
