sidespool replay --route r --from 99999999999999999999
