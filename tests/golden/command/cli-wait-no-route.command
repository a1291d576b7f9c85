sidespool wait
