touch spool; sidespool-postgres --config agent.yaml
