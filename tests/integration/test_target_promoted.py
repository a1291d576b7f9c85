"""The target fails over to its standby, which may lack the last of what was applied: it comes again from the spool, exactly once."""

import pytest

from standby import caught_up, promote, standby_of
from world import until


@pytest.mark.parametrize("lagged", [False, True])
def test_target_promoted(make_world, own_servers, folder, lagged):
    target = own_servers(fsync="on")
    standby = standby_of(target, folder / f"{target.folder.name}-standby")
    try:
        w = make_world(target=target, spool={"retain": "1h"})
        w.route_extra = {"target": {"postgres": {"dsn":
            f"host={target.folder},{standby.folder} port={target.port},{standby.port} dbname={w.db} user=postgres target_session_attrs=read-write"}}}
        w.write_config()
        w.src("create table t(id int primary key, v text); create table l(n int); alter table l replica identity full; "
              "insert into t select i, 'first' from generate_series(1, 100) i")
        w.start()
        w.wait()
        w.src("insert into l select i % 5 from generate_series(1, 100) i")
        w.wait()
        caught_up(target, standby)
        if lagged:
            standby.stop()  # what follows is on the old primary alone
        w.src("insert into l select i % 5 from generate_series(1, 100) i; update t set v = 'second' where id % 3 = 0; delete from t where id > 90")
        w.wait()
        if not lagged:
            caught_up(target, standby)
        target.stop("immediate")
        if lagged:
            standby.start(port=standby.port)
        promote(standby)
        w.target = standby
        w.src("insert into l values (7); update t set v = 'third' where id = 1")
        w.until_state("streaming")
        w.wait()
        w.assert_same("t", "l")
        until("the route's word on it", lambda: ("event=target_is_older" in w.applier.text()) == lagged, 10, 0.1, w.tell)
        w.verify()
    finally:
        standby.remove()
