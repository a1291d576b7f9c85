sidespool resync --route r $'public.\xff'
