sidespool verify
