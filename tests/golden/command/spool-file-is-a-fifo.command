mkfifo f.yaml; sidespool spool ls --config f.yaml
