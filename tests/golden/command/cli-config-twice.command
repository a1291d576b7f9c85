sidespool status --config applier.yaml --config agent.yaml
