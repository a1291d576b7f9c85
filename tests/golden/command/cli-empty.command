sidespool ""
