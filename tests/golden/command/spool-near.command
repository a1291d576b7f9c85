sidespool spool lss
