sidespool spool dump --spool . orders --log wal
