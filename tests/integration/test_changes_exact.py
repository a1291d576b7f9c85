"""What naive tools get wrong about a change: TOAST, key changes, swaps, duplicates, deferrable keys, TRUNCATE, large transactions."""

import pytest


@pytest.fixture
def started(make_world):
    def make(schema, **kw):
        w = make_world(**kw)
        w.src(schema)
        w.start()
        w.wait()
        return w
    return make


def test_unchanged_toast(started):
    w = started("create table t(id int primary key, n int, big text, k text);"
                "create table f(id int primary key, n int, big text); alter table f replica identity full;"
                "create table g(n int, big text); alter table g replica identity full;"
                "create table i(a int not null, n int, big text); create unique index ia on i(a); alter table i replica identity using index ia;"
                "alter table t alter big set storage external; alter table f alter big set storage external;"
                "alter table g alter big set storage external; alter table i alter big set storage external;"
                "insert into t select i, 0, repeat(md5(i::text), 1000), 'k' from generate_series(1, 20) i;"
                "insert into f select i, 0, repeat(md5(i::text), 1000) from generate_series(1, 20) i;"
                "insert into g select i % 5, repeat(md5((i % 5)::text), 1000) from generate_series(1, 20) i;"
                "insert into i select i, 0, repeat(md5(i::text), 1000) from generate_series(1, 20) i;")
    w.src("update t set n = n + 1 where id <= 10; update f set n = n + 1 where id <= 10; update g set n = 100 where n = 1;"
          "update i set n = n + 1 where a <= 10")
    w.src("update t set id = id + 1000 where id <= 5; update f set id = id + 1000 where id <= 5; update i set a = a + 1000 where a <= 5")
    # One transaction: the large value changes, then something else of the same row, then its key.
    w.src("begin; update t set big = repeat('z', 50000) where id = 12; update t set n = 9 where id = 12; update t set id = 2012 where id = 12; commit")
    w.src("begin; update t set n = 1 where id = 13; update t set n = 2, big = null where id = 13; update t set k = null where id = 13; commit")
    w.wait()
    w.assert_same("t", "f", "g", "i")
    w.verify()


def test_swaps_and_chains(started):
    w = started("create table t(id int primary key, u int unique, v text);"
                "create table d(id int, u int unique deferrable initially deferred, primary key (id) deferrable initially immediate);"
                "alter table d replica identity full;"
                "create table x(id int primary key, r int4range, exclude using gist (r with &&));"
                "insert into t select i, i, 'v' || i from generate_series(1, 50) i;"
                "insert into d select i, i from generate_series(1, 50) i;"
                "insert into x select i, int4range(i * 10, i * 10 + 5) from generate_series(1, 20) i;")
    w.src("begin; update t set u = -1 where id = 1; update t set u = 1 where id = 2; update t set u = 2 where id = 1; commit")
    w.src("begin; update t set id = -1 where id = 3; update t set id = 3 where id = 4; update t set id = 4 where id = -1; commit")
    w.src("update t set id = id + 100 where id > 40; begin; update t set id = id + 1000 where id = 10; insert into t values (10, 999, 'again'); commit")
    w.src("begin; delete from t where id = 11; insert into t values (11, 11, 'back'); delete from t where id = 11; insert into t values (11, 11, 'again'); commit")
    w.src("update d set id = 51 - id, u = 51 - u")
    w.src("begin; update x set r = 'empty' where id = 1; update x set r = '[10,15)' where id = 2; update x set r = '[20,25)' where id = 1; commit")
    w.wait()
    w.assert_same("t", "d", "x")
    # Afterwards everyday changes still work (the fallback is left again).
    for n in range(5):
        w.src("update t set v = v || 'x' where id = 20; insert into t(id, u) values (%s, %s)", 5000 + n, 5000 + n)
    w.wait()
    w.assert_same("t", "d", "x")


def test_rows_without_key(started):
    w = started("create table t(a int, b text, c float8, j json, p point, n numeric);"
                "alter table t replica identity full;"
                "insert into t select i % 3, null, 'nan', '{\"a\":1}', '(1,2)', 'NaN' from generate_series(1, 30) i;"
                "create table none(); alter table none replica identity full; insert into none default values; insert into none default values;"
            "select 1")
    w.src("delete from t where ctid in (select ctid from t where a = 1 limit 3)")
    w.src("update t set b = 'set', j = '{\"a\": 1}' where ctid in (select ctid from t where a = 2 limit 2)")
    w.src("update t set b = 'all'")
    w.src("insert into none default values")
    w.wait()
    w.assert_same("t")
    assert w.dst("select count(*) from none") == w.src("select count(*) from none") == [(3,)]
    w.verify()


def test_truncate_of_several(started):
    w = started("create table a(id serial primary key, v int); create table b(id int primary key references a);"
                "create table c(id int primary key);"
                "insert into a(v) select i from generate_series(1, 10) i; insert into b select i from generate_series(1, 10) i;"
                "insert into c select i from generate_series(1, 10) i;")
    w.src("begin; insert into a(v) values (5); truncate a, b restart identity; insert into a(v) values (77); commit")
    w.src("truncate c; insert into c values (1)")
    w.wait()
    w.assert_same("a", "b", "c")
    w.src("insert into b values (1); truncate a cascade; insert into a(id) values (900)")
    w.wait()
    w.assert_same("a", "b", "c")
    w.verify()


def test_larger_than_a_batch(started):
    w = started("create table t(id int primary key, pad text); create table u(id int primary key, t int references t)")
    w.src("insert into t select i, repeat(md5(i::text), 8) from generate_series(1, 150000) i;"
          "insert into u select i, i from generate_series(1, 50000) i;"
          "update t set pad = 'x' where id % 3 = 0; delete from u where id % 5 = 0")
    w.wait(180)
    w.assert_same("t", "u")


def test_large_values(started):
    w = started("create table t(id int primary key, b bytea, j text)")
    w.src("insert into t select 1, decode(repeat('00ff5c0a', 5000000), 'hex'), null")
    w.src("insert into t select i, null, (select string_agg(md5(n::text), '') from generate_series(1, 60000) n) from generate_series(2, 6) i")
    w.src("update t set j = repeat('y', 3000000) || j where id = 3; update t set id = 100 where id = 1")
    w.wait(120)
    w.assert_same("t")
    w.verify()


def test_prepared_messages_savepoints(make_world, own_servers):
    source = own_servers(max_prepared_transactions="5")
    w = make_world(source=source)
    w.src("create table t(id int primary key, v text)")
    w.start()
    w.wait()
    conn = source.connect(w.db, autocommit=True)
    cur = conn.cursor()
    cur.execute("begin")
    cur.execute("insert into t values (1, 'prepared')")
    cur.execute("prepare transaction 'p1'")
    cur.execute("begin")
    cur.execute("insert into t values (2, 'rolled back')")
    cur.execute("prepare transaction 'p2'")
    w.src("insert into t values (3, 'between')")
    w.src("select pg_logical_emit_message(true, 'secret', 'not for the spool'); ")
    w.src("begin; insert into t values (4, 'a'); savepoint s; insert into t values (5, 'gone'); rollback to s; insert into t values (6, 'b'); commit")
    w.wait()
    assert w.dst("select array_agg(id order by id) from t") == [([3, 4, 6],)]
    w.agent.kill()
    w.start_agent()
    cur.execute("commit prepared 'p1'")
    cur.execute("rollback prepared 'p2'")
    w.wait()
    w.assert_same("t")
    dump = w.run("sidespool", "spool", "dump", "--spool", w.spool_dir, "shop", check=0).stdout
    assert "not for the spool" not in dump and "between" in dump
