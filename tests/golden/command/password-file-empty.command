mkdir spool; : >pw; chmod 600 pw; sed -i "s#user=u\"#&, password_file: $DIR/pw#" agent.yaml; $MORTAL sidespool-postgres --check --config agent.yaml | grep -A1 FAIL; exit ${PIPESTATUS[0]}
