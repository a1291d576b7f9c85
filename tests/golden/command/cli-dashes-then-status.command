sidespool status -- --json
