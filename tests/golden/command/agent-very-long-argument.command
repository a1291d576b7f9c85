sidespool-postgres --config agent.yaml $(printf %0100000d 0)
