sidespool spool ls --spool . $'\xff'
