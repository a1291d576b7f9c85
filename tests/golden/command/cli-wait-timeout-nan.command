sidespool wait --route r --timeout nan
