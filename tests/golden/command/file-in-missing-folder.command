sidespool-postgres --check --config no/where.yaml
