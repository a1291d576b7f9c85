echo geheim >pw; chmod 644 pw; mkdir spool; sed -i "s#user=u\"#&, password_file: $DIR/pw#" applier.yaml; sidespool-applier --check --config applier.yaml | grep -A1 FAIL; exit ${PIPESTATUS[0]}
