sidespool pause
