mkfifo f.yaml; sidespool-postgres --check --config f.yaml
