sidespool-postgres --check --config nowhere.yaml
