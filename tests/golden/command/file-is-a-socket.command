python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('s.yaml')"; sidespool-postgres --check --config s.yaml
