sidespool spool forget --spool .
