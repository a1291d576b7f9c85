sidespool replay --route r --from start
