sidespool status --json=1
