# applier
sidespool-applier --config applier.yaml
