sidespool spool verify --spool . --from 3
