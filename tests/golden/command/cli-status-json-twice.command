sidespool status --json --json
