sidespool --jsn status
