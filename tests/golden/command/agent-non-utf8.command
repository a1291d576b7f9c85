sidespool-postgres --config agent.yaml $'\xff\xfe'
