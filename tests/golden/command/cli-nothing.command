sidespool 
