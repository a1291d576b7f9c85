sidespool-applier --config applier.yaml --route nobody 2>&1
