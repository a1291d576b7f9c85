"""The quota is reached while the target is away: capture stops and says so, the source keeps what we cannot, and all goes on."""

import time

from world import until


def test_full_and_on_again(make_world, own_servers):
    target = own_servers()
    source = own_servers(wal_sender_timeout="3s")
    w = make_world(source=source, target=target, spool={"segment_size": "1MiB", "max_size": "16MiB"})
    w.src("create table t(id int primary key, pad text)")
    w.start()
    w.wait()
    target.stop("immediate")
    for n in range(40):
        w.src("insert into t select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 30) k) from generate_series(%s, %s) i", n * 1000, n * 1000 + 999)
    state = until("spool full", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "spool_full" and r["agent"])(w.route()), 60, 0.3, w.tell)
    assert state["reason"]
    used = sum(f.stat().st_blocks * 512 for f in (w.spool_dir / "shop").iterdir())
    assert used < 20 << 20, f"{used} bytes on disk with a quota of 16 MiB"
    pid = source.one("select active_pid from pg_replication_slots where slot_name = %s", f"ss_{w.db}")
    time.sleep(7)  # more than twice wal_sender_timeout
    assert pid and source.one("select active_pid from pg_replication_slots where slot_name = %s", f"ss_{w.db}") == pid, "keepalives were not answered while full"
    target.start()
    w.wait(120)
    w.assert_same("t")


def test_transaction_larger_than_the_quota(make_world):
    w = make_world(spool={"segment_size": "1MiB", "max_size": "8MiB"})
    w.src("create table t(id int primary key, pad text)")
    w.start()
    w.wait()
    w.src("insert into t select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 30) k) from generate_series(1, 20000) i")
    agent = until("halted with its size", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "halted" and r["agent"])(w.route()), 60, 0.3, w.tell)
    assert "max_size" in agent["reason"], agent


def test_copy_larger_than_its_share(make_world):
    """The copy log may hold half of max_size: a larger table comes through, because the route loads and makes room."""
    w = make_world(spool={"segment_size": "1MiB", "max_size": "16MiB"})
    w.src("create table t(id int primary key, pad text)")
    w.src("insert into t select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 30) k) from generate_series(1, 30000) i")
    w.start()
    w.wait(180)
    w.assert_same("t")


def test_stream_grows_while_a_copy_runs(make_world):
    """While a table is copied nothing of the stream can be trimmed: it may not take the room that the copy needs to end."""
    w = make_world(spool={"segment_size": "1MiB", "max_size": "16MiB"})
    w.src("create table t(id int primary key, pad text)")
    w.src("create table busy(id int primary key, pad text)")
    w.src("insert into t select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 30) k) from generate_series(1, 30000) i")
    w.start()
    until("the copy to begin", lambda: "event=copy_begins" in w.agent.text(), 60, 0.02, w.tell)
    for n in range(25):  # about 25 MB of changes: more than the whole quota
        w.src("insert into busy select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 30) k) from generate_series(%s, %s) i", n * 1000, n * 1000 + 999)
    w.wait(180)
    w.assert_same("t", "busy")
