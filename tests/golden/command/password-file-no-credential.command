mkdir spool c; sed -i "s#user=u\"#&, password_file: pw#" agent.yaml; CREDENTIALS_DIRECTORY=$DIR/c sidespool-postgres --check --config agent.yaml | grep -A1 FAIL; exit ${PIPESTATUS[0]}
