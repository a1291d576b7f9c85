mkdir -m 500 spool; $MORTAL sidespool-postgres --config agent.yaml
