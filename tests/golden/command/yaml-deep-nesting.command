{ cat agent.yaml; printf "tables: {include: "; printf "[%.0s" {1..10000}; } >f.yaml; sidespool-postgres --check --config f.yaml
