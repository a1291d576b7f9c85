sidespool --version=1
