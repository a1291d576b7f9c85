sidespool-applier --cofnig applier.yaml
