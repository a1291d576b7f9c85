sidespool spool forget --spool . --consumer ""
