"""A target that is older than the route remembers: replayed from the spool while that still holds all, else a gap."""

import shutil
import subprocess

from world import until


def restore(target):
    target.stop("immediate")
    shutil.rmtree(target.folder / "data")
    subprocess.run(["cp", "-a", target.folder / "backup", target.folder / "data"], check=True)
    target.start()


def backup(target):
    target.stop("fast")
    subprocess.run(["cp", "-a", target.folder / "data", target.folder / "backup"], check=True)
    target.start()


def test_replayed_from_the_spool(make_world, own_servers):
    target = own_servers(fsync="on")
    w = make_world(target=target, spool={"retain": "1h"})
    w.src("create table t(id int primary key, v int); create table l(n int); alter table l replica identity full; insert into t select i, 0 from generate_series(1, 100) i")
    w.start()
    w.wait()
    backup(target)
    w.src("update t set v = v + 1; insert into l select i % 3 from generate_series(1, 50) i; delete from t where id > 90")
    w.wait()
    restore(target)
    w.src("insert into l values (7)")
    w.wait()
    w.assert_same("t", "l")
    w.verify()
    assert "event=target_is_older" in w.applier.text()


def too_old(make_world, target, **kw):
    """A target that was put back to a place that the spool no longer holds."""
    w = make_world(target=target, spool={"retain": "0s", "segment_size": "1MiB"}, **kw)
    w.src("create table t(id int primary key, v text)")
    w.start()
    w.wait()
    backup(target)
    for n in range(6):
        w.src("insert into t select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 60) k) from generate_series(%s, %s) i", n * 1000, n * 1000 + 999)
        w.wait()
    first = until("trim", lambda: [f for f in (w.spool_dir / "shop").glob("stream-*.mdb")] and not (w.spool_dir / "shop" / "stream-00000000000000000001.mdb").exists(), 30, 0.2, w.tell)
    assert first
    restore(target)
    return w


def test_gap_when_the_spool_no_longer_reaches(make_world, own_servers):
    w = too_old(make_world, own_servers(fsync="on"))
    w.until_state("halted")
    assert "SS-" in str(w.route()) and "spool" in w.route()["reason"]
    w.cli("resync", "--route", "shop", check=0)
    w.wait()
    w.assert_same("t")


def test_gap_answered_by_on_gap_resync(make_world, own_servers):
    w = too_old(make_world, own_servers(fsync="on"), route={"on_gap": "resync"})
    w.until_log(w.applier, "event=gap_answered_by_resync")
    w.src("insert into t values (-1, 'after')")
    w.wait()
    assert w.state() == "streaming"
    w.assert_same("t")
    w.verify()
