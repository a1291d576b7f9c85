sidespool help
