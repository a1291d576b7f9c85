sidespool status --config applier.yaml
