"""What a change costs when there is ten times as much of everything: CPU seconds of the agent and of a route, which are to stay the same."""

from bench import Backlog, Bench
from meter import TICK, Meter, cpu, stat
from world import until

MOST = 1.10
ROWS = 200  # of each table
EACH = 20  # changes of a transaction, all of one table


class Grows(RuntimeError):
    """A cost that is not the same; said when the whole scenario is through."""


def schema(tables):
    return "".join(f"create table scale_{n}(id int primary key, v text not null, n bigint not null); "
                   f"insert into scale_{n} select g, md5(g::text), 0 from generate_series(1, {ROWS}) g; " for n in range(tables))


def change(server, db, tables, changes):
    """Table after table in an order that jumps, so that neighbours in the backlog are not neighbours in the catalogue."""
    conn = server.connect(db)
    with conn.cursor() as cursor:
        cursor.execute("set synchronous_commit = off")
        cursor.execute(f"do $$ begin for i in 1 .. {changes // EACH} loop execute 'update scale_' || (i * 7919::bigint) % {tables} || "
                       f"' set n = n + 1, v = md5($1::text) where id between $2 and $2 + {EACH - 1}' using i, 1 + i % {ROWS - EACH + 1}; commit; end loop; end $$")
    conn.close()


def middle(values):
    return sorted(values)[len(values) // 2]


def backlog(bench, tables, changes):
    """CPU seconds: (agent, route), each at rest while the other works."""
    made = Backlog(bench, schema(tables))
    change(made.source, made.world.db, tables, changes)
    made.written(changes // EACH * EACH)
    agent = middle([made.capture_ours(run).cpu["agent"] for run in range(bench.runs)])
    route = middle([made.apply_ours(run).cpu["applier"] for run in range(bench.runs)])
    return agent, route


def further_change(bench, tables, changes):
    """Of a change behind the first `changes`: what a table costs when it is met first is told apart, for it is paid once a session."""
    first = alone(bench, lambda own: backlog(own, tables, changes))
    more = alone(bench, lambda own: backlog(own, tables, 3 * changes))
    cost = tuple((b - a) * 1e6 / (2 * changes) for a, b in zip(first, more))
    once = tuple((a * 1e6 - each * changes) / tables for a, each in zip(first, cost))
    bench.report.note(f"{tables:,} tables: beside its changes a table costs the agent {once[0]:.0f} and the route {once[1]:.0f} microseconds of CPU, once "
                      "(with what a start costs)")
    return cost


def routes(bench, count, changes):
    """The same for `count` routes of one source, each with a database of its own, all at work while the agent captures."""
    source, target = bench.server("source"), bench.server("target", max_connections="200")
    world = bench.world(source, target)
    names = [f"{world.db}_{n}" for n in range(count)]
    for name in names:
        target.sql(f"create database {name}")
    world.applier_extra["routes"] = [{"source": world.name, "name": name, "target": {"postgres": {"dsn": target.dsn(name)}}} for name in names]
    world.write_config()
    world.src(schema(10))
    world.start()
    until("all routes stream", lambda: (s := world.status()) and all(r["state"] == "streaming" for r in s["routes"]), 300, 0.2, world.tell)
    agents, each = [], []
    for run in range(bench.runs):
        bench.settle()
        route = -own_and_below(world.applier.pid)
        with Meter(agent=world.agent.pid) as meter:
            change(source, world.db, 10, changes)
            for name in names:
                world.cli("wait", "--route", name, "--timeout", 1200, check=0, timeout=1300)
            meter.stop()
        agents.append(meter.cpu["agent"])
        each.append((route + own_and_below(world.applier.pid)) / count)
    done = changes // EACH * EACH
    return middle(agents) * 1e6 / done, middle(each) * 1e6 / done  # microseconds for a change


def own_and_below(pid):
    """CPU seconds of the processes below pid, its own left out: the routes without their supervisor."""
    return cpu(pid) - stat(pid)[1] / TICK


def alone(bench, cost):
    """On servers of its own."""
    own = Bench(bench, bench.report)
    try:
        return cost(own)
    finally:
        own.close()


def scaling(bench):
    grown = []
    few, many = bench.amount(200_000), bench.amount(1_000_000)

    def whole(changes):
        return tuple(seconds * 1e6 / changes for seconds in alone(bench, lambda own: backlog(own, 10, changes)))

    for what, before, after in (
            ("tables: 100, then 1,000", lambda: further_change(bench, 100, few), lambda: further_change(bench, 1000, few)),
            (f"backlog: {many // 10:,} changes, then {many:,}", lambda: whole(many // 10), lambda: whole(many)),
            ("routes of one source: 1, then 10", lambda: alone(bench, lambda own: routes(own, 1, few)),
             lambda: alone(bench, lambda own: routes(own, 10, few)))):
        for part, one, ten in zip(("agent", "route"), before(), after()):
            print(f"   {part}: {one:.2f}, then {ten:.2f} microseconds of CPU for a change", flush=True)
            bench.report.single(f"CPU of the {part} for a change, ten times the {what}", ten / one, f"times, at most {MOST}", before=one, after=ten)
            if ten > MOST * one:
                grown.append(f"{what}: {part} {one:.2f}, then {ten:.2f} microseconds")
    if grown:
        raise Grows("; ".join(grown))


SCENARIOS = {"scaling": ("CPU for a change with ten times the tables, the backlog, the routes: the same within 10 %", scaling)}
