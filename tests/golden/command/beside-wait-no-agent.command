# applier
sidespool wait --route orders-copy --timeout 5 --config applier.yaml
