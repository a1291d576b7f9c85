sidespool wait --route r --timeout 99999999999999d
