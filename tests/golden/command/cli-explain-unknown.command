sidespool explain SS-PG-9999
