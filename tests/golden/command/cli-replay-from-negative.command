sidespool replay --route r --from -3
