sidespool-applier --config applier.yaml --route orders-copy
