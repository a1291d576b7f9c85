sidespool spool ls --help now
