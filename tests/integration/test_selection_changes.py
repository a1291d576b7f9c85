"""A table that leaves the agent's selection and comes back: what changed meanwhile is in no stream, so no route may go on holding it
as whole (a TableGap says so). The same for a table that is dropped and created anew under its name."""

import json

import pytest

from world import until


def started(make_world, **kw):
    w = make_world(**kw)
    w.src("create table t(id int primary key, v text); insert into t select i, 'v' || i from generate_series(1, 50) i")
    w.src("create table u(id int primary key, v text); insert into u select i, 'v' || i from generate_series(1, 50) i")
    w.start()
    w.wait()
    return w


def restart_agent(w, tables, kills=0):
    w.agent.stop()
    w.tables = tables
    if not tables:
        w.agent_extra.pop("tables", None)
    w.write_config()
    w.start_agent()
    for _ in range(kills):  # at any moment of its start; what it had not made durable it does again
        w.agent.kill()
        w.start_agent()


def away(w, kills=0):
    """t is excluded, changes in each way, and is included again."""
    restart_agent(w, {"exclude": ["public.t"]}, kills)
    w.until_log(w.agent, "table_left")
    w.src("update t set v = 'away' where id <= 10; delete from t where id > 40; insert into t values (100, 'away')")
    w.src("insert into u values (100, 'seen')")
    w.wait()
    w.assert_same("u")
    assert not w.same("t")
    restart_agent(w, None, kills)


def selected(w):
    return {e["name"]: e for e in json.loads((w.spool_dir / "shop" / "selected").read_text())["tables"].values()}


@pytest.mark.parametrize("kills", [0, 3])
def test_halts_until_resync(make_world, kills):
    w = started(make_world)
    away(w, kills)
    w.until_state("halted")
    reason = w.route()["reason"]
    assert "public.t" in reason and "sidespool resync --route shop public.t" in reason, reason
    assert w.cli("wait", "--route", "shop", "--timeout", 3).returncode in (1, 75)
    w.src("insert into t values (101, 'later'); insert into u values (101, 'later')")
    w.cli("resync", "--route", "shop", "public.t", check=0)
    w.wait()
    w.assert_same("t", "u")
    w.src("update t set v = 'end' where id = 1; insert into u values (102, 'end')")
    w.wait()
    w.assert_same("t", "u")
    w.verify()
    # Told once: the next restarts are no news.
    restart_agent(w, None)
    w.src("insert into t values (103, 'quiet')")
    w.wait()
    w.assert_same("t", "u")


@pytest.mark.parametrize("kills", [0, 3])
def test_resyncs_by_itself(make_world, kills):
    w = started(make_world, route={"on_gap": "resync"})
    away(w, kills)
    until("t is copied anew", lambda: w.same("t"), 60, 0.2, w.tell)
    w.wait()
    w.assert_same("t", "u")
    w.src("update t set v = 'end' where id = 1")
    w.wait()
    w.assert_same("t", "u")
    w.verify()


@pytest.mark.parametrize("kills", range(4))
def test_killed_while_it_tells(make_world, kills):
    """kill -9 as soon as each line of the start appears: before the gap, between gap and file, behind both."""
    line = ["event=agent_started", "table_gap", "state=streaming", "event="][kills]
    w = started(make_world, route={"on_gap": "resync"})
    restart_agent(w, {"exclude": ["public.t"]})
    w.until_log(w.agent, "table_left")
    w.src("update t set v = 'away'")
    w.agent.stop()
    w.tables = None
    w.write_config()
    seen = len(w.agent.text())
    w.start_agent()
    try:
        until("its line", lambda: line in w.agent.text()[seen:], 3, 0.001)
    except AssertionError:
        pass
    w.agent.kill()
    w.start_agent()
    until("t is copied anew", lambda: w.same("t"), 60, 0.2, w.tell)
    w.wait()
    w.assert_same("t", "u")


def test_created_anew(make_world):
    """Another table under the same name is not in the publication: without a word of ours its rows would never come."""
    w = started(make_world, route={"on_gap": "resync"})
    before = selected(w)["t"]["id"]
    w.src("drop table t; create table t(id int primary key, v text); insert into t values (1, 'new'), (2, 'new')")
    restart_agent(w, None)
    until("the new table is copied", lambda: w.same("t"), 60, 0.2, w.tell)
    w.wait()
    assert selected(w)["t"]["id"] != before
    w.src("insert into t values (3, 'streams')")
    w.wait()
    w.assert_same("t", "u")


def test_created_anew_halts(make_world):
    w = started(make_world)
    w.src("drop table t; create table t(id int primary key, v text); insert into t values (1, 'new')")
    restart_agent(w, None)
    w.until_state("halted")
    assert "created anew" in w.route()["reason"], w.route()
    w.cli("resync", "--route", "shop", "public.t", check=0)
    w.wait()
    w.assert_same("t", "u")


def test_excluded_for_good_is_said(make_world):
    w = started(make_world)
    restart_agent(w, {"exclude": ["public.t"]})
    w.wait()

    def told():
        return [t for t in w.status()["troubles"] if t["kind"] == "table_left"]
    trouble = until("the trouble", told, 20, 0.2, w.tell)[0]
    assert "public.t" in trouble["text"] and "stands still" in trouble["text"], trouble
    assert w.state() == "streaming"


def test_lost_file_is_taken_for_a_gap(make_world):
    w = started(make_world, route={"on_gap": "resync"})
    w.agent.stop()
    (w.spool_dir / "shop" / "selected").unlink()
    w.src("insert into t values (300, 'x')")
    w.start_agent()
    w.until_log(w.applier, "table_gap_answered_by_resync")
    w.wait()
    w.assert_same("t", "u")
