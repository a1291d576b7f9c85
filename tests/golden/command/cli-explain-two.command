sidespool explain SS-PG-0001 SS-PG-0002
