sidespool wait --route r --timeout "5 s"
