sidespool frobnicate --help
