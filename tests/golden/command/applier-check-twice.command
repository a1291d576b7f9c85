sidespool-applier --check --check
