sidespool-postgres --config=
