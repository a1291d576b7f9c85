sidespool-postgres --config agent.yaml --config other.yaml
