#!/bin/bash
# Captures NAME.hex from NAME.sql: one pgoutput message a line, as a real server sent it. Connects as psql does (PGHOST, PGPORT…), to a
# server with wal_level = logical; makes and drops a database sidespool_golden. Expected records (NAME.jsonl) are written by
# SS_GOLDEN_WRITE=1 pgoutput_golden_test and read by a person before they are committed.
set -euo pipefail
cd "$(dirname "$0")"
for sql in "${@:-identities.sql tables.sql}"; do
    for file in $sql; do
        psql -qXd postgres -c 'DROP DATABASE IF EXISTS sidespool_golden' -c 'CREATE DATABASE sidespool_golden'
        run() { PGOPTIONS='-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex' psql -qXAtd sidespool_golden -v ON_ERROR_STOP=1 "$@"; }
        sed '/^-- captured$/,$d' "$file" | run -f -
        run -c "SELECT 1 FROM pg_create_logical_replication_slot('sidespool_golden', 'pgoutput')" >/dev/null
        sed '1,/^-- captured$/d' "$file" | run -f - >/dev/null
        run -c "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('sidespool_golden', NULL, NULL, 'proto_version', '1', 'publication_names', 'golden', 'messages', 'true')" >"${file%.sql}.hex"
        run -c "SELECT pg_drop_replication_slot('sidespool_golden')" >/dev/null
        psql -qXd postgres -c 'DROP DATABASE sidespool_golden'
    done
done
