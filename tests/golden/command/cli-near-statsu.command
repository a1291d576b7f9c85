sidespool statsu
