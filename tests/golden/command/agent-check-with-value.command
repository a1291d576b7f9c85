sidespool-postgres --check=yes --config agent.yaml
