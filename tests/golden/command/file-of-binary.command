head -c 1000 /bin/sh >f.yaml; sidespool-postgres --check --config f.yaml
