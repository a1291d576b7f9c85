sidespool-postgres -c agent.yaml
