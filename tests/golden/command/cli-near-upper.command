sidespool STATUS
