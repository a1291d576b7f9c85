sidespool explain "no such thing"
