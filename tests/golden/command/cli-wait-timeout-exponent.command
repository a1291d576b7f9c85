sidespool wait --route r --timeout 1e9
