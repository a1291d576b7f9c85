sidespool spool frobnicate
