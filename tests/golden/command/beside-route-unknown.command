# applier
sidespool pause --route nobody --config applier.yaml
