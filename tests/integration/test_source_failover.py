"""The source fails over to a standby: with the slot the stream goes on there, without it the gap is said."""

import shutil
import subprocess

import pytest

from servers import programs
from standby import base_backup, carry_slot, caught_up, promote, standby_of
from world import until

TABLES = "create table t(id int primary key, v text); create table l(n int); " \
         "insert into t select i, 'first' from generate_series(1, 200) i"


def halted(w):
    agent = (w.route() or {}).get("agent")
    return agent if agent and agent["state"] == "halted" else None


def until_halted(w, *words):
    agent = until("the agent halted", lambda: halted(w), 30, 0.2, w.tell)
    assert any(word in agent["reason"] for word in words), agent
    return agent


@pytest.fixture
def pair(make_world, own_servers, folder):
    """A world whose source has a standby that streams; both servers are the test's own."""
    made = []

    def make(**kw):
        primary = own_servers(fsync="on")
        standby = standby_of(primary, folder / f"{primary.folder.name}-standby")
        made.append(standby)
        w = make_world(source=primary, **kw)
        # The publication holds l too, though it has no identity: it takes INSERT alone here.
        w.src(TABLES + f"; create publication sidespool_{w.name} for all tables")
        w.start()
        w.wait()
        w.src("insert into l select i from generate_series(1, 50) i; update t set v = 'second' where id % 2 = 0")
        w.wait()
        return w, primary, standby

    yield make
    for pg in made:
        pg.remove()


def fail_over(w, primary, standby, slot=None):
    caught_up(primary, standby)
    primary.sql("checkpoint")  # the slot's file says what was confirmed
    primary.stop("immediate")
    if slot:
        carry_slot(primary, standby, slot)
    promote(standby)
    w.source = standby
    w.write_config()


def test_with_its_slot_it_goes_on(pair):
    w, primary, standby = pair()
    w.agent.stop()
    w.src("insert into l select 1000 + i from generate_series(1, 40) i; delete from t where id > 190")  # waits for the slot
    fail_over(w, primary, standby, slot=f"ss_{w.db}")
    w.src("insert into l values (5000); update t set v = 'after' where id < 10")
    agent = w.start_agent()
    w.wait()
    w.assert_same("t", "l")  # l has no key: nothing came twice
    assert "event=timeline_changed" in agent.text()
    w.verify()


def test_with_a_failover_slot(make_world, own_servers, folder):
    """From version 17 on the standby keeps the slot in step by itself; nobody copies anything."""
    bin_dir, why_not = programs(18)
    if not bin_dir:
        pytest.skip(why_not)
    primary = own_servers(fsync="on", bin_dir=bin_dir)
    primary.sql("select pg_create_physical_replication_slot('standby')")
    standby = standby_of(primary, folder / f"{primary.folder.name}-standby", sync_replication_slots="on", hot_standby_feedback="on",
                         primary_slot_name="standby", primary_conninfo=f"host=127.0.0.1 port={primary.port} user=postgres dbname=postgres")
    try:
        w = make_world(source=primary)
        w.src(TABLES + f"; create publication sidespool_{w.name} for all tables")
        w.start()
        w.wait()
        slot = f"ss_{w.db}"
        w.src("insert into l select i from generate_series(1, 50) i")
        w.wait()

        def synced():
            standby.sql("select 1")
            primary.sql("select pg_log_standby_snapshot()")
            w.src("insert into l values (0)")
            return standby.sql("select 1 from pg_replication_slots where slot_name = %s and synced and not temporary", slot)

        until("the slot on the standby", synced, 60, 1, lambda: str(standby.sql("select * from pg_replication_slots")))
        w.wait()
        fail_over(w, primary, standby)
        w.src("insert into l values (5000); update t set v = 'after' where id < 10")
        w.agent.stop()
        agent = w.start_agent()
        w.wait()
        w.assert_same("t", "l")
        assert "event=timeline_changed" in agent.text()
    finally:
        standby.remove()


@pytest.mark.parametrize("on_gap", ["halt", "resync"])
def test_without_the_slot_the_gap_is_said(pair, on_gap):
    w, primary, standby = pair(agent={"on_gap": on_gap})
    fail_over(w, primary, standby)
    w.src("insert into l values (5000); delete from t where id = 3")
    w.agent.stop()
    w.start_agent()
    if on_gap == "resync":
        until("the copy made anew", lambda: w.dst("select count(*) from l where n = 5000") == [(1,)], 60, 0.2, w.tell)
        w.wait()
        w.assert_same("t", "l")
    else:
        until_halted(w, "is gone from the source")
        assert w.dst("select count(*) from l where n = 5000") == [(0,)]


def test_a_standby_that_lagged_is_a_gap(pair):
    """What the agent has captured was lost with the primary: the copy holds what no source ever had."""
    w, primary, standby = pair()
    caught_up(primary, standby)
    standby.sql("select pg_wal_replay_pause()")
    until("the pause", lambda: standby.one("select pg_get_wal_replay_pause_state()") == "paused")
    standby.stop()  # it receives nothing any more either
    w.src("insert into l values (6000)")
    w.wait()
    assert w.dst("select count(*) from l where n = 6000") == [(1,)]
    w.agent.stop()
    slot = f"ss_{w.db}"
    primary.sql("checkpoint")
    primary.stop("immediate")
    standby.start()
    carry_slot(primary, standby, slot)
    promote(standby)
    w.source = standby
    w.write_config()
    # The new timeline grows beyond the old one's end, so that positions alone tell nothing.
    w.src("create table filler(x text); insert into filler select repeat(md5(i::text), 50) from generate_series(1, 2000) i")
    w.start_agent()
    until_halted(w, "timeline")


@pytest.mark.parametrize("slots", ["without slots", "with slots"])
def test_a_source_restored_from_a_backup(make_world, own_servers, folder, slots):
    """A base backup holds no slots; a copy of the file system does, and its WAL ends before what was captured."""
    source = own_servers(fsync="on")
    w = make_world(source=source)
    w.src(TABLES + f"; create publication sidespool_{w.name} for all tables")
    w.start()
    w.wait()
    kept = folder / f"{source.folder.name}-backup"
    if slots == "with slots":
        source.stop()
        put(source.folder / "data", kept)
        source.start()
    else:
        base_backup(source, kept)
    w.src("insert into l select i from generate_series(1, 500) i")
    w.wait()
    w.agent.stop()
    source.stop("immediate")
    data = kept if slots == "with slots" else kept / "data"
    put(data, source.folder / "data")
    source.start()
    w.start_agent()
    until_halted(w, *(["restored from a backup", "beyond our"] if slots == "with slots" else ["is gone from the source"]))
    assert w.dst("select count(*) from l") == [(500,)]


def put(source, target):
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", source, target], check=True)


@pytest.mark.parametrize("on_gap", ["halt", "resync"])
def test_slot_lost_by_max_slot_wal_keep_size(make_world, own_servers, on_gap):
    """wal_status = lost is final: it is said once, and not tried again for ever."""
    source = own_servers(max_slot_wal_keep_size="16MB", min_wal_size="32MB", max_wal_size="32MB")
    w = make_world(source=source, agent={"on_gap": on_gap})
    w.src(TABLES + f"; create publication sidespool_{w.name} for all tables")
    w.start()
    w.wait()
    w.agent.stop()
    w.src("insert into l values (7000)")

    def lost():
        source.sql("select pg_switch_wal() from pg_logical_emit_message(false, 'test', repeat('x', 100000)); checkpoint")
        return source.one("select wal_status = 'lost' from pg_replication_slots where slot_name = %s", f"ss_{w.db}")

    until("the slot lost", lost, 60, 0)
    agent = w.start_agent()
    if on_gap == "resync":
        until("the copy made anew", lambda: w.dst("select count(*) from l where n = 7000") == [(1,)], 60, 0.2, w.tell)
        w.wait()
        w.assert_same("t", "l")
        return
    until_halted(w, "invalidated slot")
    assert agent.alive()
    assert agent.text().count("SS-PG-0042") <= 2, agent.text()
