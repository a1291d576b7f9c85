ln -s nowhere l.yaml; sidespool-postgres --check --config l.yaml
