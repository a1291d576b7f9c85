touch spool; sidespool-applier --check --config applier.yaml
