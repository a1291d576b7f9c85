"""Memory does not grow with a transaction, a value is held a bounded number of times: RssAnon, looked at while it happens.

With --long at the sizes that the promise names; the short form at a size that still tells bounded from not."""

import sys

import pytest
from servers import TOP

sys.path.append(str(TOP / "bench" / "lib"))
from meter import Meter  # noqa: E402

MIB = 1 << 20
AGENT, ROUTE = 64, 256  # MiB, and four times the largest message


def peaks(world, load):
    """MiB of the agent and of the route at their highest while `load` passes from the source to the target."""
    with Meter() as meter:
        meter.add(agent=world.agent.pid, applier=world.applier.pid)
        load()
        world.wait(timeout=1800)
        meter.stop()
    return meter.rss["agent"], meter.rss["applier"]


def test_a_transaction_of_any_size_passes_in_bounded_memory(make_world, request):
    rows = 2_000_000 if request.config.getoption("--long") else 300_000  # 1 kB each: held whole it would be over either bound
    w = make_world(spool={"max_size": "8GiB"})
    w.src("create table t(id bigint primary key, v text)")
    w.start()
    w.wait()
    agent, route = peaks(w, lambda: w.src("insert into t select i, repeat(md5(i::text), 31) from generate_series(1, %s) i", rows))
    query = "select count(*), sum(length(v)), max(id) from t"
    assert w.dst(query) == w.src(query) == [(rows, rows * 992, rows)]
    assert agent <= AGENT, f"agent: {agent:.0f} MiB of at most {AGENT}"
    assert route <= ROUTE, f"route: {route:.0f} MiB of at most {ROUTE}"


@pytest.mark.parametrize("kind, make, wire", [("text", "repeat(md5(random()::text), %s / 32)", 1),
                                              ("bytea", "decode(repeat(md5(random()::text), %s / 16), 'hex')", 2)])
def test_a_value_is_held_at_most_four_times(make_world, request, kind, make, wire):
    size = (100 if request.config.getoption("--long") else 32) * MIB
    w = make_world(spool={"max_size": "8GiB"})
    w.src(f"create table t(id int primary key, v {kind})")
    w.src(f"insert into t values (1, {make})", size)
    w.start()
    copied = peaks(w, lambda: None)
    streamed = peaks(w, lambda: w.src(f"insert into t values (2, {make})", size))
    query = "select id, length(v), md5(v) from t order by id"
    assert w.dst(query) == w.src(query)
    most = 4 * wire * size / MIB  # a bytea travels as hexadecimal text
    for way, (agent, route) in (("copied", copied), ("streamed", streamed)):
        assert agent <= AGENT + most, f"{way}: agent {agent:.0f} MiB of at most {AGENT + most:.0f}"
        assert route <= ROUTE + most, f"{way}: route {route:.0f} MiB of at most {ROUTE + most:.0f}"
