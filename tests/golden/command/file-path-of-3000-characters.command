sidespool-postgres --check --config $(printf "/%0200d" {1..15}).yaml
