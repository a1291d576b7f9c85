sidespool explain $(printf %0100000d 0)
