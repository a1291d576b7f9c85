sed -i "s#/spool,#/a/b/spool,#" agent.yaml; mkdir -m 700 -p a/b/spool/orders; touch a/b/spool/orders/lock; exec 9<>a/b/spool/orders/lock; flock 9; sidespool-postgres --config agent.yaml
