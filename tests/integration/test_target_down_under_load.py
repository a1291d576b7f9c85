"""The target is down for a while: the source is released all the same, and the backlog is replayed exactly."""

import time

from workload import SCHEMA, TABLES, Watcher, Workload
from world import until


def test_source_is_released_and_nothing_is_lost(make_world, own_servers, seed):
    target = own_servers()
    w = make_world(target=target)
    w.src(SCHEMA)
    w.start()
    w.wait()
    slot = "select confirmed_flush_lsn - '0/0'::pg_lsn, restart_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"

    def positions():
        return w.source.sql(slot, f"ss_{w.db}")[0]

    load = Workload(w, seed).start()
    target.stop("immediate")
    w.until_state("waiting_target")
    seen = [positions()]
    for _ in range(8):
        time.sleep(1)
        seen.append(positions())
    confirmed = [float(c) for c, _ in seen]
    assert all(b >= a for a, b in zip(confirmed, confirmed[1:]))
    assert confirmed[-1] > confirmed[0] + 100_000, f"the slot stood still while the target was down: {confirmed}"
    load_commits = load.stop()
    # With the load at rest, everything that the source wrote is released: restart_lsn moves past where it stood when the target went.
    before = float(w.source.one("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn", dbname=w.db))

    def released():
        w.source.sql("checkpoint")
        w.src("select pg_log_standby_snapshot()") if w.source.one("show server_version_num") >= "160000" else None
        return float(positions()[1]) >= before - 64 * 1024

    until("the source's WAL is released while the target is down", released, 60, 1)
    route = w.route()
    assert route["behind_records"] > 0, route
    assert load_commits > 10
    target.start()
    watcher = Watcher(w).start()
    w.wait()
    watcher.stop()
    w.assert_same(*TABLES)
    w.verify()
