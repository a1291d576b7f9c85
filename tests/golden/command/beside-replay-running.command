# applier
sidespool replay --route orders-copy --from 7 --config applier.yaml
