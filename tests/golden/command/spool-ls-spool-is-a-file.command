sidespool spool ls --spool agent.yaml
