sidespool status orders
