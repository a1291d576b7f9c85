sidespool-applier --config nowhere.yaml --check
