sidespool spool ls --yes --spool .
