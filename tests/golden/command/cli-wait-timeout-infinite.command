sidespool wait --route r --timeout inf
