# applier
sidespool verify --route order-copy --config applier.yaml
