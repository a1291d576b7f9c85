sidespool -v
