sidespool-postgres agent.yaml
