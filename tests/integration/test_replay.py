"""replay: only for a target whose tables were put back without their bookkeeping, and only when a person says so."""

import json


def sequence(w):
    return w.route()["sequence"]


def test_a_target_put_back_by_hand(make_world):
    w = make_world(spool={"retain": "1h"})
    w.src("create table t(id int primary key, v int); create table l(n int); alter table l replica identity full; "
          "insert into t select i, 0 from generate_series(1, 50) i; insert into l values (1), (1)")
    w.start()
    w.wait()
    w.src("update t set v = 1 where id <= 10; insert into l values (2), (2)")
    w.wait()
    w.cli("pause", "--route", "shop", check=0)
    place = sequence(w) + 1
    w.dst("create schema kept; create table kept.t as table t; create table kept.l as table l")
    w.cli("resume", "--route", "shop", check=0)
    w.src("update t set v = v + 1; insert into l values (3), (3), (1); delete from t where id > 40")
    w.wait()

    # A route that runs, and a target that holds those records already, are refused: rows without a key would come twice.
    assert w.cli("replay", "--route", "shop", "--from", place).returncode == 1
    w.cli("pause", "--route", "shop", check=0)
    done = w.cli("replay", "--route", "shop", "--from", place)
    assert done.returncode == 1 and "--force" in done.stderr and "SS-ROUTE-0006" in done.stderr, done
    for place_beyond in (1, 10 ** 9):  # before the tables' copy, and beyond the spool
        done = w.cli("replay", "--route", "shop", "--from", place_beyond, "--force")
        assert done.returncode == 1 and "cannot replay" in done.stderr, done
    w.cli("resume", "--route", "shop", check=0)
    w.wait()
    w.assert_same("t", "l")

    # The tables are put back, the bookkeeping is not.
    w.cli("pause", "--route", "shop", check=0)
    w.dst("delete from t; insert into t table kept.t; delete from l; insert into l table kept.l")
    w.cli("replay", "--route", "shop", "--from", place, "--force", check=0)
    w.cli("resume", "--route", "shop", check=0)
    w.wait()
    w.assert_same("t", "l")
    w.verify()
    assert json.loads(w.cli("verify", "--route", "shop", "--json", check=0).stdout)["equal"]
