sidespool spool forget --spool . --consumer nobody --yes
