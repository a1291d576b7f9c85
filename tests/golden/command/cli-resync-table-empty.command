sidespool resync --route r ""
