{ cat agent.yaml; head -c 1048576 /dev/zero | tr "\0" "#"; } >f.yaml; sidespool-postgres --check --config f.yaml
