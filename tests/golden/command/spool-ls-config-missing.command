sidespool spool ls --config nowhere.yaml
