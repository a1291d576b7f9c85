sidespool explain
