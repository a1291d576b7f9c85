sidespool explain --markdown SS-PG-0001
