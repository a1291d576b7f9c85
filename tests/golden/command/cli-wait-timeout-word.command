sidespool wait --route r --timeout soon
