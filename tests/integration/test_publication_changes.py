"""What somebody else does to the publication, or to the names of tables in it, is never a silent hole."""

import time

import pytest

from world import until

PUB = "sidespool_shop"


def started(make_world, setup="", **kw):
    w = make_world(**kw)
    w.src("create table t(id int primary key, v text); create table other(id int primary key);"
          "insert into t select i, 'v' from generate_series(1, 100) i")
    if setup:
        w.src(setup)
    w.start()
    w.wait()
    return w


def halted(w):
    return until("agent halted", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "halted" and r["agent"])(w.route()),
                 60, 0.2, w.tell)


# Each leaves the publication as it looked before, with rows written in between that no stream brings.
CHANGES = {
    "taken out": [f"alter publication {PUB} drop table t", "insert into t values (1000, 'lost')",
                  f"alter publication {PUB} add table t"],
    "filtered": [f"alter publication {PUB} set table t where (id < 10), other", "insert into t values (1000, 'lost')",
                 f"alter publication {PUB} set table t, other"],
    "operations": [f"alter publication {PUB} set (publish = 'delete')", "insert into t values (1000, 'lost')",
                   f"alter publication {PUB} set (publish = 'insert, update, delete, truncate')"],
    "made anew": [f"drop publication {PUB}", f"create publication {PUB} for table t, other with (publish_via_partition_root = true)",
                  "insert into t values (1000, 'behind')"],
    "renamed": ["alter table t rename to t2", "insert into t2 values (1000, 'lost')", "alter table t2 rename to t"],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_hole_halts(make_world, change, running):
    w = started(make_world, agent={} if change != "renamed" else {"tables": {"include": ["public.t", "public.other"]}})
    if not running:
        w.agent.stop()
    for statement in CHANGES[change]:
        w.src(statement)
    if not running:
        w.start_agent()
    agent = halted(w)
    assert PUB in agent["reason"] or "public.t" in agent["reason"], agent
    w.agent.stop()
    w.start_agent()
    halted(w)


@pytest.mark.parametrize("change", ["taken out", "renamed"])
def test_a_hole_is_answered_by_a_copy(make_world, change):
    w = started(make_world, agent={"on_gap": "resync"})
    for statement in CHANGES[change]:
        w.src(statement)
    until("copied anew", lambda: w.dst("select count(*) from t where id = 1000") == [(1,)], 60, 0.2, w.tell)
    w.src("insert into t values (2000, 'later')")
    w.wait()
    w.assert_same("t", "other")


def test_only_adding_is_fine(make_world):
    """Tables that are added, by a person or for a copy, by another owner, across restarts and kills."""
    w = started(make_world)
    w.src("create table mine(id int primary key); create table yours(id int primary key); insert into mine values (1)")
    w.src(f"alter publication {PUB} add table yours")
    w.agent.kill()
    w.src("insert into yours values (1)")
    w.start_agent()
    until("the agent is back", lambda: (w.route() or {}).get("agent") and w.route()["agent"]["state"] == "streaming", 30, 0.2, w.tell)
    w.cli("resync", "--route", "shop", "public.mine", "public.yours", check=0)
    w.wait()
    w.src("insert into mine values (2); insert into yours values (2); analyze; comment on publication "
          f"{PUB} is 'x'; alter table t add more int; drop table other")
    time.sleep(4)
    w.agent.stop()
    w.start_agent()
    w.src("insert into yours values (3)")
    w.wait()
    w.assert_same("mine", "yours")


@pytest.mark.parametrize("together", [False, True], ids=["attach", "attach in one transaction"])
def test_partitions_attached_and_detached_are_named(make_world, together):
    w = started(make_world, "create table part(id int primary key, v text) partition by range (id);"
                            "create table part_a partition of part for values from (0) to (100);"
                            "create table part_rest partition of part default;"
                            "insert into part select i, 'a' from generate_series(1, 50) i")
    # A new partition is empty: what comes into it is streamed.
    w.src("create table part_b partition of part for values from (100) to (200); insert into part values (150, 'b')")
    time.sleep(4)
    w.wait()
    assert "partitions_changed" not in w.agent.text(), w.tell()
    attach = ["create table loose(id int primary key, v text)", "insert into loose values (250, 'c')",
              "alter table part attach partition loose for values from (200) to (300)"]
    for statement in ["; ".join(attach)] if together else attach:
        w.src(statement)
    w.until_log(w.agent, "partitions_changed")
    assert "public.part" in w.agent.text() and "SS-PG-0059" in w.agent.text()
    w.src("insert into part values (260, 'd')")
    w.wait()
    w.verify("public.part", check=1)
    w.cli("resync", "--route", "shop", "public.part", check=0)
    w.wait()
    w.verify("public.part")
    w.src("drop table part_b")
    until("named again", lambda: w.agent.text().count("partitions_changed") == 2, 30, 0.2, w.tell)


def test_dropped_table_keeps_its_last_changes(make_world):
    """Published by leaf and selected by its parent's name, a partition is known even when it is detached or gone."""
    w = make_world(agent={"tables": {"include": ["public.part"]}})
    w.src("create table part(id int primary key, v text) partition by range (id);"
          "create table part_a partition of part for values from (0) to (100);"
          "create table part_b partition of part for values from (100) to (200);"
          f"create publication {PUB} for table part with (publish_via_partition_root = false)")
    w.start()
    w.wait()
    w.cli("pause", "--route", "shop", check=0)
    w.agent.kill()
    w.src("insert into part values (1, 'last')")
    w.src("alter table part detach partition part_a")
    w.start_agent()
    w.cli("resume", "--route", "shop", check=0)
    until("the last change", lambda: w.dst("select count(*) from part_a") == [(1,)], 60, 0.2, w.tell)
