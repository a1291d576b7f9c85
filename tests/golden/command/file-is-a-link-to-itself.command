ln -s l.yaml l.yaml; sidespool-postgres --check --config l.yaml
