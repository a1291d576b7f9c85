sidespool wait --route a --route b
