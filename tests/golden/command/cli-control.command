sidespool $'sta\e[2Jtus'
