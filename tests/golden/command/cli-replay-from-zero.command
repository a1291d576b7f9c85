sidespool replay --route r --from 0
