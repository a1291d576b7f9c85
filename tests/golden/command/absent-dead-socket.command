python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('applier.sock')"; sidespool status --config applier.yaml
