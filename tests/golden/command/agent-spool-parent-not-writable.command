mkdir -m 500 d; sed -i "s#/spool,#/d/spool,#" agent.yaml; $MORTAL sidespool-postgres --config agent.yaml
