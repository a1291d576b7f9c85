sidespool replay --route r --from 1.5
