"""resync: `wait` behind it waits for the new copy, what is not ready is never called fresh, and readers see whole states."""

import time

from workload import INVARIANT, SCHEMA, TABLES, Watcher, Workload
from world import until


def test_wait_after_resync_waits_for_the_new_copy(make_world):
    w = make_world()
    w.src("create table t(id int primary key, v int); insert into t select i, i from generate_series(1, 20000) i")
    w.start()
    w.wait()
    for n in range(5):
        w.dst("update t set v = -1 where id = %s", 100 + n)  # somebody wrote to the copy
        w.cli("resync", "--route", "shop", "public.t", check=0)
        w.cli("wait", "--route", "shop", "--timeout", 60, check=0)
        assert w.dst("select count(*) from t where v = -1") == [(0,)], f"round {n}: wait came back before the copy"
    w.assert_same("t")


def test_tables_that_are_not_selected_are_refused(make_world):
    w = make_world(tables={"include": ["public.*"], "exclude": ["public.secret*"]})
    w.src("create schema other; create table t(id int primary key); create table secret(id int primary key); create table other.o(id int primary key)")
    w.start()
    w.wait()
    for name in ("public.secret", "other.o"):
        done = w.cli("resync", "--route", "shop", name)
        assert done.returncode == 1 and name in done.stderr and "not selected" in done.stderr, done
    w.wait()
    assert w.state() == "streaming"


def test_not_fresh_while_a_table_is_not_ready(make_world):
    w = make_world()
    w.src("create table t(id int primary key); create table u(id int primary key); insert into u values (1)")
    w.start()
    w.wait()
    # The copy cannot begin: a transaction of the source stays open, and every snapshot waits for it.
    held = w.source.connect(w.db, autocommit=False)
    held.cursor().execute("insert into u values (2)")
    w.cli("resync", "--route", "shop", "public.t", check=0)
    before = w.dst("select as_of from sidespool.freshness")[0][0]
    w.src("insert into t values (7)")
    time.sleep(3)
    route = w.route()
    assert route["state"] != "streaming" and "public.t" in route["reason"], route
    assert route["lag_seconds"] is None or route["lag_seconds"] > 1, route
    (as_of, state), = w.dst("select as_of, state from sidespool.freshness")
    assert as_of == before and state != "streaming"
    held.commit()
    w.wait()
    until("fresh again", lambda: w.route()["lag_seconds"] == 0 and w.state() == "streaming", 30, 0.2, w.tell)
    until("freshness moves on", lambda: w.dst("select as_of > %s and state = 'streaming' from sidespool.freshness", before)[0][0], 30, 0.2, w.tell)
    w.assert_same("t", "u")


def test_all_tables_under_load(make_world, seed):
    w = make_world()
    w.src(SCHEMA)
    w.start()
    w.wait()
    load = Workload(w, seed).start()
    time.sleep(1)
    w.cli("resync", "--route", "shop", check=0)
    w.cli("wait", "--route", "shop", "--timeout", 120, check=0)
    assert w.dst(INVARIANT) == [(True,)]
    watcher = Watcher(w).start()
    time.sleep(3)
    watcher.stop()
    load.stop()
    w.wait()
    w.assert_same(*TABLES)
    w.verify()


def test_a_larger_table_catches_up_under_load(make_world, seed):
    w = make_world()
    w.src(SCHEMA)
    w.src("create table large(id int primary key, v int, pad text); "
          "insert into large select i, 0, repeat('p', 200) from generate_series(1, 150000) i")
    w.start()
    w.wait(120)
    load = Workload(w, seed).start()
    w.cli("resync", "--route", "shop", "public.large", check=0)
    for n in range(20):  # changes of the table itself, before, in and behind its copy
        w.src("update large set v = v + 1 where id %% 50 = %s", n)
        w.src("delete from large where id = %s", 1000 + n)
    w.cli("wait", "--route", "shop", "--timeout", 120, check=0)
    load.stop()
    w.wait()
    w.assert_same("large", *TABLES)
    w.verify()
