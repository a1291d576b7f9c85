sidespool spool ls --config applier.yaml --spool .
