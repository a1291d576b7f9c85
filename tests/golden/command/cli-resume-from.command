sidespool resume --route r --from 5
