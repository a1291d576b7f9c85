sidespool-postgres --config
