sidespool spool forgte
