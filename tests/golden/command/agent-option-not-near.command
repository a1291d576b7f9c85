sidespool-postgres --verbose
