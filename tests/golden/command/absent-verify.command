sidespool verify --route orders-copy --config applier.yaml
