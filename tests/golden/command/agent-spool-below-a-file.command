touch f; sed -i "s#/spool,#/f/spool,#" agent.yaml; sidespool-postgres --config agent.yaml
