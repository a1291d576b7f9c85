sidespool spool dump --spool . orders --from x
