chmod 000 agent.yaml; $MORTAL sidespool-postgres --check --config agent.yaml
