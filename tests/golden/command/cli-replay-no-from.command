sidespool replay --route r
