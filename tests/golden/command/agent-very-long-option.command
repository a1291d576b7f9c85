sidespool-postgres --$(printf %0100000d 0)
