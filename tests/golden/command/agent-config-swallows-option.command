sidespool-postgres --config --check
