sidespool status --timeout 5
