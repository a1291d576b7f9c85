sidespool status --config wrong.yaml
