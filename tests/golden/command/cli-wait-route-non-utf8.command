sidespool wait --route $'r\xff'
