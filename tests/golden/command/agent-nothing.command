sidespool-postgres 
