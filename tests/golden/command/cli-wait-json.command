sidespool wait --route r --json
