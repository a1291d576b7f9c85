sidespool wait --route r --timeout 5 --timeout 6
