sidespool verfy --route r
