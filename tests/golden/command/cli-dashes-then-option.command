sidespool -- --json status
