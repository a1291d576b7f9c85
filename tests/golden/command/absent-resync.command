sidespool resync --route orders-copy --config applier.yaml
