sidespool wait --route r --timeout ""
