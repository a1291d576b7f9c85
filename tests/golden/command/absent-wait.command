sidespool wait --route orders-copy --config applier.yaml
