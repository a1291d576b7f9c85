python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('applier.sock')"; chmod 000 applier.sock; $MORTAL sidespool status --config applier.yaml
