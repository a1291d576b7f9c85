sidespool-postgres --config agent.yaml -- --check
