sidespool wait --route ""
