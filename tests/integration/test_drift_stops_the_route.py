"""Rows changed behind the route's back are drift: the route stops and says which table; another route goes on."""

import pytest


@pytest.mark.parametrize("damage, change", [
    ("delete from t where id = 5", "update t set v = 'x' where id = 5"),
    ("delete from t where id = 5", "delete from t where id = 5"),
    ("insert into t values (900, 'theirs')", "insert into t values (900, 'ours')"),
])
def test_drift(make_world, damage, change):
    w = make_world()
    w.src("create table t(id int primary key, v text); create table o(id int primary key); insert into t select i, 'v' from generate_series(1, 10) i")
    w.start()
    w.wait()
    w.dst(damage)
    w.src(change)
    w.until_state("halted")
    reason = w.route()["reason"]
    assert "t" in reason and "SS-" in str(w.route()), reason
    done = w.cli("wait", "--route", "shop", "--timeout", 10)
    assert done.returncode == 1 and done.stderr, done
    before = w.dst("select count(*) from o")
    w.src("insert into o values (1)")
    assert w.dst("select count(*) from o") == before  # nothing is applied past the bad transaction
    # The cure that the message names.
    w.cli("resync", "--route", "shop", "public.t", check=0)
    w.wait()
    w.assert_same("t", "o")
    w.verify()
