sidespool status --route orders-copy
