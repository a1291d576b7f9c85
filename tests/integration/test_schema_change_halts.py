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


KEYS = """
create table plain(id int primary key, v text);
create table late(id int primary key deferrable, v text); alter table late replica identity full;
create table whole(id int primary key, v text); alter table whole replica identity full;
create table by_index(id int not null, v text); create unique index by_index_id on by_index(id);
alter table by_index replica identity using index by_index_id;
create table included(id int primary key, v text, doc json);
alter table included drop constraint included_pkey, add constraint included_pkey primary key (id) include (v, doc);
create table none(id int, v text); alter table none replica identity full;
create table part(id int not null, v text) partition by range (id); create unique index part_id on part(id);
create table part_1 partition of part for values from (0) to (50); create table part_2 partition of part default;
alter table part_1 alter id set not null; alter table part_2 alter id set not null;
alter table part_1 replica identity using index part_1_id_idx; alter table part_2 replica identity using index part_2_id_idx;
"""
LEAVES = "create publication sidespool_shop for all tables with (publish_via_partition_root = false)"
KEYED = ["plain", "late", "whole", "by_index", "included", "none", "part_1", "part_2"]
INDEXES = """select i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisreplident,
  (select inhparent::regclass::text from pg_inherits where inhrelid = i.indexrelid)
  from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = 'public'::regnamespace order by 1, 2"""


def test_a_table_put_in_place_has_the_indexes_of_the_source_alone(make_world):
    """What the copy caught up by, while it had no index yet, goes."""
    w = make_world()
    w.src(KEYS + LEAVES)
    for table in KEYED:
        w.src(f"insert into {table} select i, 'v' from generate_series(1, 49) i" if table != "part_2" else "insert into part_2 values (77, 'v')")
    w.start()
    w.wait()
    assert w.dst(INDEXES) == w.src(INDEXES)
    w.src("; ".join(f"alter table {t} add extra int default 5" for t in [*KEYED[:-2], "part"]))
    w.src("; ".join(f"update {t} set extra = 6 where id in (1, 77)" for t in KEYED))
    w.until_state("halted")
    held = w.source.connect(w.db, autocommit=False)  # so that there is something to catch up with
    held.cursor().execute("insert into none values (100, 'held', 1)")
    w.cli("resync", "--route", "shop", check=0)
    w.src("; ".join(f"update {t} set extra = 7, v = 'w' where id between 2 and 5; delete from {t} where id = 9" for t in KEYED))
    held.commit()
    w.wait()
    w.assert_same(*KEYED, "part")
    assert w.dst(INDEXES) == w.src(INDEXES)
    w.src("; ".join(f"update {t} set extra = 8 where id in (3, 77); delete from {t} where id = 4" for t in KEYED))
    w.wait()
    w.assert_same(*KEYED, "part")


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
