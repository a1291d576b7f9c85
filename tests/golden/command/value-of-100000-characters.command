{ cat agent.yaml; echo "on_gap: $(printf %0100000d 0)"; } >f.yaml; sidespool-postgres --check --config f.yaml
