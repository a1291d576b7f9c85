sidespool --json spool ls
