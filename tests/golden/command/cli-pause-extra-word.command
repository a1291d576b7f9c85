sidespool pause --route r now
