sidespool spool ls --spool nowhere
