sidespool status --config nowhere.yaml
