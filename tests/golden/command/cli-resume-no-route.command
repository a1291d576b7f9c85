sidespool resume
