sidespool-postgres --conf agent.yaml
