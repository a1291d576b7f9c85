mkdir spool; $MORTAL sidespool-postgres --check --config agent.yaml | grep -A1 FAIL; exit ${PIPESTATUS[0]}
