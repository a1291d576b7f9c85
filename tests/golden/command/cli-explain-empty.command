sidespool explain ""
