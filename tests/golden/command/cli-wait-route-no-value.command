sidespool wait --route
