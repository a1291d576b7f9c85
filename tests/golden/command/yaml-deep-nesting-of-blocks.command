{ cat agent.yaml; printf "a: "; printf "{a: %.0s" {1..10000}; } >f.yaml; sidespool spool ls --config f.yaml
