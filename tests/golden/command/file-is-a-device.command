sidespool-postgres --check --config /dev/null
