sidespool-applier applier.yaml
