sidespool status --json --config applier.yaml
