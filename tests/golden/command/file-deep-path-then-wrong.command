d=$(printf "/%0100d" {1..8}); mkdir -p .$d; cp wrong.yaml .$d/x.yaml; sidespool-postgres --check --config .$d/x.yaml
