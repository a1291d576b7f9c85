sidespool status --config agent.yaml
