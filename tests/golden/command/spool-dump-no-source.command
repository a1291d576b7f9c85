sidespool spool dump --spool .
