sidespool-postgres --check --config agent.yaml/x.yaml
