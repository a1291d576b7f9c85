sidespool spool dump --spool . orders --from 9 --to 3
