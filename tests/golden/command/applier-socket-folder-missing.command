sed -i "s#/applier.sock#/run/applier.sock#" applier.yaml; mkdir spool; sidespool-applier --config applier.yaml
