# applier
sed "s#/spool}#/other}#" applier.yaml >other.yaml; sidespool status --config other.yaml
