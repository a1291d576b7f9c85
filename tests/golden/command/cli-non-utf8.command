sidespool $'st\xe4tus'
