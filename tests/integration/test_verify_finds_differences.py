"""verify looks at every cell: a changed one, a missing row and a doubled one are each found and named."""

import json

import pytest


@pytest.fixture
def world(make_world):
    w = make_world()
    w.src("create table t(id int primary key, v text); create table log(n int, v text); alter table log replica identity full;"
          "insert into t select i, 'v' || i from generate_series(1, 5000) i; insert into log select i % 10, 'l' from generate_series(1, 1000) i")
    w.start()
    w.wait()
    w.verify(check=0)
    return w


def report(w, *tables):
    done = w.cli("verify", "--route", "shop", "--json", *tables)
    assert done.returncode == 1, done.stdout + done.stderr
    return {t["table"]: t for t in json.loads(done.stdout)["tables"]}


def test_changed_cell(world):
    world.dst("update t set v = 'V77' where id = 77")
    got = report(world)
    assert got["public.t"]["different"]["count"] == 1 and "77" in got["public.t"]["different"]["keys"][0]
    assert got["public.log"]["equal"] is True


def test_missing_row(world):
    world.dst("delete from t where id = 4321")
    got = report(world)
    assert got["public.t"]["missing"]["count"] == 1 and "4321" in got["public.t"]["missing"]["keys"][0]


def test_doubled_row(world):
    world.dst("insert into log select * from log limit 1")
    world.dst("insert into t values (100000, 'extra')")
    got = report(world)
    assert got["public.log"]["extra"]["count"] == 1 and not got["public.log"]["equal"]
    assert got["public.t"]["extra"]["count"] == 1 and "100000" in got["public.t"]["extra"]["keys"][0]


def test_while_changes_go_on(world):
    import threading
    stop = threading.Event()

    def write():
        conn = world.source.connect(world.db)
        n = 10000
        while not stop.is_set():
            n += 1
            conn.cursor().execute("insert into t values (%s, 'w'); ", (n,))
            conn.cursor().execute("update t set v = v || '.' where id = %s", (n % 5000,))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            world.verify(check=0)
    finally:
        stop.set()
        thread.join()
