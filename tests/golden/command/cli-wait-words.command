sidespool wait orders-copy
