sidespool status --json --config wrong.yaml
