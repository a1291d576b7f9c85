sidespool spool dump --spool . orders --from -1
