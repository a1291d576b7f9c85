sidespool spool ls --spool . ""
