sidespool spool ls --config broken.yaml
