sidespool resume --route orders-copy --config applier.yaml
