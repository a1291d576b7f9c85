mkdir spool; sed -i "s#host=127.0.0.1#host=$DIR/run#" agent.yaml; $MORTAL sidespool-postgres --check --config agent.yaml | grep -A1 FAIL; exit ${PIPESTATUS[0]}
