mkdir d; cp agent.yaml d; chmod 000 d; $MORTAL sidespool-postgres --check --config d/agent.yaml; code=$?; chmod 700 d; exit $code
