"""A broken history of the source is never silent: slot dropped, recreated, another server, a lost spool."""

import shutil

import pytest

from world import until


def started(make_world, **kw):
    w = make_world(**kw)
    w.src("create table t(id int primary key, v text); insert into t select i, 'v' from generate_series(1, 100) i")
    w.start()
    w.wait()
    return w


def break_slot(w, recreate):
    w.agent.kill()
    slot = f"ss_{w.db}"
    until("slot free", lambda: not w.source.one("select active from pg_replication_slots where slot_name = %s", slot))
    w.source.sql("select pg_drop_replication_slot(%s)", slot)
    w.src("insert into t values (1000, 'in the gap')")
    if recreate:
        w.src("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
        w.src("insert into t values (1001, 'behind the gap')")


@pytest.mark.parametrize("recreate", [False, True])
def test_halts(make_world, recreate):
    w = started(make_world)
    break_slot(w, recreate)
    w.start_agent()
    agent = until("agent halted", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "halted" and r["agent"])(w.route()), 30, 0.2, w.tell)
    assert "slot" in agent["reason"], agent
    assert w.agent.alive()
    assert w.dst("select count(*) from t where id >= 1000") == [(0,)]
    assert w.cli("wait", "--route", "shop", "--timeout", 3).returncode in (1, 75)


@pytest.mark.parametrize("recreate", [False, True])
def test_resyncs_when_told(make_world, recreate):
    w = started(make_world, agent={"on_gap": "resync"})
    break_slot(w, recreate)
    w.src("delete from t where id = 7")
    w.start_agent()
    until("the copy is made anew", lambda: w.dst("select count(*) from t where id = 1000") == [(1,)], 60, 0.2, w.tell)
    w.wait()
    w.assert_same("t")
    w.src("insert into t values (2000, 'later')")
    w.wait()
    w.assert_same("t")


def test_lost_spool_is_a_gap(make_world):
    w = started(make_world)
    w.agent.stop()
    w.applier.stop()
    shutil.rmtree(w.spool_dir / "shop")
    w.start()
    w.until_log(w.agent, "SS-PG-")
    agent = until("agent halted", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "halted")(w.route()), 30, 0.2, w.tell)
    assert agent


def test_another_server(make_world, own_servers):
    w = started(make_world)
    other = own_servers()
    other.sql(f"create database {w.db}")
    w.agent.stop()
    old, w.source = w.source, other
    w.write_config()
    w.src("create table t(id int primary key, v text)")
    w.start_agent()
    try:
        agent = until("agent halted", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "halted" and r["agent"])(w.route()), 30, 0.2, w.tell)
        assert "another system" in agent["reason"], agent
        assert other.one("select count(*) from pg_replication_slots") == 0, "nothing is made on a foreign server"
    finally:
        w.source = old


def test_missing_progress_row_is_a_gap(make_world):
    w = started(make_world)
    w.applier.stop()
    w.dst("delete from sidespool.progress")
    w.start_applier()
    w.until_state("halted")
    assert "progress" in w.route()["reason"]
    w.cli("resync", "--route", "shop", check=0)
    w.wait()
    w.assert_same("t")
