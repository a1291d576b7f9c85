sidespool explain --json SS-PG-0001
