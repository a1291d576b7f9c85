touch applier.sock; sidespool status --config applier.yaml
