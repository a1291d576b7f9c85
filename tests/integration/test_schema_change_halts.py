"""A schema change that cannot be followed yet halts its route with the table, the difference and what to do."""

import pytest


@pytest.mark.parametrize("ddl, after, word", [
    ("alter table t add extra int default 5", "insert into t(id, extra) values (500, 1)", "extra"),
    ("alter table t drop v", "insert into t(id) values (500)", "v"),
    ("alter table t alter v type varchar(10)", "insert into t(id, v) values (500, 'x')", "character varying"),
    ("alter table t rename v to w", "insert into t(id, w) values (500, 'x')", "w"),
])
def test_halts_and_resync_goes_on(make_world, ddl, after, word):
    w = make_world()
    w.src("create table t(id int primary key, v text); create table o(id int primary key); insert into t select i, 'v' from generate_series(1, 100) i")
    w.start()
    w.wait()
    w.src("insert into t values (400, 'before')")
    w.wait()
    w.src(ddl)
    w.src(after)
    w.src("insert into o values (1)")
    w.until_state("halted")
    reason = w.route()["reason"]
    assert "public.t" in reason and word in reason and "resync" in reason, reason
    assert w.dst("select count(*) from t where id = 400") == [(1,)]
    w.cli("resync", "--route", "shop", "public.t", check=0)
    w.wait()
    w.assert_same("t", "o")
    w.src(after.replace("500", "501"))
    w.wait()
    w.assert_same("t")
    w.verify()


def test_resync_after_a_column_change_while_the_table_is_written(make_world):
    """Changes of the new shape arrive while the copy runs: they fit the table that is loaded, not the one in place."""
    import threading
    w = make_world()
    w.src("create table t(id int primary key, v text); insert into t select i, 'v' from generate_series(1, 100000) i; create table other(id int primary key)")
    w.start()
    w.wait()
    w.src("alter table t add extra int default 5")
    w.src("update t set extra = 6 where id = 1")
    w.until_state("halted")
    stop = threading.Event()

    def write():
        cur, n = w.source.connect(w.db).cursor(), 10000000
        while not stop.is_set():
            n += 1
            cur.execute("insert into other values (%s)", (n,))  # the stream goes on beside the copy
            cur.execute("insert into t values (%s, 'w', %s)", (n, n))
            cur.execute("update t set extra = extra + 1 where id = %s", (n % 20000 + 1,))
            cur.execute("delete from t where id = %s", (n - 50,))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(2):  # the second in the same session, beside a table that has the columns
            w.cli("resync", "--route", "shop", "public.t", check=0)
            w.until_state("streaming", timeout=120)
            w.wait(120)
    finally:
        stop.set()
        thread.join()
    w.wait()
    w.assert_same("t", "other")
    assert "copy_restarts" not in w.applier.text()
    w.verify()


def test_altered_by_hand_on_both_sides(make_world):
    w = make_world()
    w.src("create table t(id int primary key, v text)")
    w.start()
    w.wait()
    w.src("alter table t add extra int")
    w.src("insert into t values (1, 'a', 2)")
    w.until_state("halted")
    w.dst("alter table t add extra int")
    w.cli("resume", "--route", "shop", check=0)
    w.wait()
    w.assert_same("t")


def test_new_table_is_named_and_starts_with_resync(make_world):
    from world import until
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    w.src("create table fresh(id int primary key, v text); insert into fresh values (1, 'a')")
    until("status names the new table", lambda: "public.fresh" in w.cli("status").stdout, 60, 0.5, w.tell)
    w.cli("resync", "--route", "shop", "public.fresh", check=0)
    w.src("insert into fresh values (2, 'b')")
    w.wait()
    until("the new table is ready", lambda: w.dst("select to_regclass('public.fresh') is not null") == [(True,)] and w.same("fresh"), 60, 0.2, w.tell)
    w.src("update fresh set v = v || '!'; insert into t values (1)")
    w.wait()
    w.assert_same("fresh", "t")
    until("status no longer names it", lambda: "public.fresh" not in w.cli("status").stdout, 60, 0.5, w.tell)


def test_resync_never_shows_an_empty_table(make_world):
    import threading
    w = make_world()
    w.src("create table t(id int primary key, v text); insert into t select i, 'v' from generate_series(1, 20000) i; create view big as select count(*) from t; create table other(id int primary key)")
    w.start()
    w.wait()
    smallest, stop = [10 ** 9], threading.Event()

    def read():
        conn = w.target.connect(w.db)
        cur = conn.cursor()
        while not stop.is_set():
            cur.execute("select count(*) from t")
            smallest[0] = min(smallest[0], cur.fetchone()[0])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        w.dst("update t set v = 'drifted' where id = 5")
        for n in range(3):
            w.cli("resync", "--route", "shop", "public.t", check=0)
            for i in range(20):
                w.src("insert into t values (%s, 'n'); insert into other values (%s)", 30000 + n * 100 + i, n * 100 + i)
            w.wait()
    finally:
        stop.set()
        thread.join()
    from world import until
    until("equal after resync", lambda: w.same("t"), 60, 0.3, w.tell)
    assert smallest[0] >= 20000, f"a reader saw {smallest[0]} rows"
    w.verify()
