sidespool-postgres --config ""
