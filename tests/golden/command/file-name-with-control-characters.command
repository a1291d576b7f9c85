sidespool-postgres --check --config $'no\e[31mwhere\n.yaml'
