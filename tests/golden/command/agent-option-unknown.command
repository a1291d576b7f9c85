sidespool-postgres --chekc --config agent.yaml
