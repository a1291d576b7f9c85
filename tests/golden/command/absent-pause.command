sidespool pause --route orders-copy --config applier.yaml
