sidespool spool ls --jsno
