sidespool spool
