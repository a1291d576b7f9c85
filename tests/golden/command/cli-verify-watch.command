sidespool verify --route r --watch
