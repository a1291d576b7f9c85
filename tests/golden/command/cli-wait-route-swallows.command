sidespool wait --route --timeout 5
