"""From the return of a commit at the source until its row can be read at the target, under a steady load."""

import random
import re
import time

from bench import Backlog
from meter import Meter
from postgres.pgbench import pgbench
from world import until

RATE = 2000
CLIENTS = 8
SECONDS = 20
LOOK = 0.0005  # between two looks at the target: what the figures are exact to
SCRIPT = """\\set aid random(1, 100000 * :scale)
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
"""


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Load:
    """pgbench at RATE transactions a second, one update each; tps() is what it reached."""

    def __init__(self, bench, world, scale, seconds):
        script = bench.folder / "latency.sql"
        script.write_text(SCRIPT)
        self.process = bench.process([Backlog.pg_bin() / "pgbench", "-n", "-M", "prepared", "-f", script, "-s", scale, "-R", RATE,
                                      "-c", CLIENTS, "-j", 2, "-T", seconds, world.source.dsn(world.db)], "load")

    def running(self):
        return self.process.alive()

    def tps(self):
        self.process.popen.wait(60)
        found = re.search(r"tps = ([0-9.]+)", self.process.text())
        if self.process.popen.returncode or not found:
            raise RuntimeError(self.process.tail())
        return float(re.findall(r"tps = ([0-9.]+)", self.process.text())[-1])


class Probe:
    """Single rows, each looked for at the target until it is there: milliseconds from the return of its commit."""

    def __init__(self, source, target, number):
        self.source, self.target = source.cursor(), target.cursor()
        self.number = number  # of the last row that is there

    def once(self):
        self.number += 1
        self.source.execute("insert into latency_probe values (%s)", (self.number,))
        began = time.perf_counter()
        while True:
            self.target.execute("select 1 from latency_probe where n = %s", (self.number,))
            seen = time.perf_counter()
            if self.target.fetchone():
                return (seen - began) * 1000
            if seen - began > 30:
                raise RuntimeError("a row has not reached the target in 30 s")
            time.sleep(LOOK)

    def during(self, load, settle):
        """Leaves out the first seconds, in which either side takes up its work."""
        took, began = [], time.monotonic()
        while load.running():
            value = self.once()
            if time.monotonic() - began > settle:
                took.append(value)
            time.sleep(random.uniform(0.004, 0.02))
        return took


def measure(bench, world, target_db, scale, **pids):
    """A Meter with .took, milliseconds of each probe, and .tps."""
    seconds = max(5, int(SECONDS * min(1.0, bench.scale)))
    source, target = world.source.connect(world.db), world.target.connect(target_db)
    try:
        # Truncated by neither: a row of the run before would be taken for this one's.
        probe = Probe(source, target, world.src("select coalesce(max(n), 0) from latency_probe")[0][0])
        probe.once()
        bench.settle()
        with Meter(source=world.source.pid, target=world.target.pid, **pids) as meter:
            load = Load(bench, world, scale, seconds)
            meter.took = probe.during(load, 2)
            meter.stop()
        meter.tps = load.tps()
        if meter.tps < 0.95 * RATE:
            raise RuntimeError(f"only {meter.tps:.0f} transactions a second instead of {RATE}: this machine cannot carry the load")
        return meter
    finally:
        source.close()
        target.close()


def native_copy(world):
    """A database with the same tables and a subscription that has copied them."""
    name = "native_copy"
    world.target.sql(f"drop database if exists {name} with (force)")
    world.target.sql(f"create database {name}")
    for table in ("pgbench_accounts(aid int primary key, bid int, abalance int, filler char(84))",
                  "pgbench_branches(bid int primary key, bbalance int, filler char(88))",
                  "pgbench_tellers(tid int primary key, bid int, tbalance int, filler char(84))",
                  "pgbench_history(tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
                  "latency_probe(n int primary key)"):
        world.target.sql(f"create table {table}", dbname=name)
    host = f"host=127.0.0.1 port={world.source.port} dbname={world.db} user=postgres"
    world.target.sql(f"create subscription native connection '{host}' publication native", dbname=name)
    until("the native copy", lambda: world.target.one("select bool_and(srsubstate = 'r') from pg_subscription_rel", dbname=name),
          timeout=300)
    return name


def native(bench, world, scale):
    name = native_copy(world)
    try:
        return measure(bench, world, name, scale)
    finally:
        world.target.sql("drop subscription native", dbname=name)


def ours(bench, world, scale):
    """Agent and applier keep their spool between runs; while the native tool is measured they are stopped."""
    world.start()
    world.until_state("streaming", timeout=300)
    world.wait(timeout=300)
    try:
        return measure(bench, world, world.db, scale, agent=world.agent.pid, applier=world.applier.pid)
    finally:
        world.applier.stop()
        world.agent.stop()


def median_by(runs, share):
    return sorted(runs, key=lambda run: percentile(run.took, share))[(len(runs) - 1) // 2]


def latency(bench):
    source, target = bench.server("source"), bench.server("target")
    world = bench.world(source, target)
    scale = bench.amount(5)
    pgbench(world, "-i", "-q", "-s", scale)
    world.src("create table latency_probe(n int primary key); create publication native for all tables")
    world.src(f"create publication sidespool_{world.name} for all tables")
    mine, theirs = [], []
    for run in range(bench.runs):
        theirs.append(native(bench, world, scale))
        mine.append(ours(bench, world, scale))
        for name, found in (("native", theirs[-1]), ("sidespool", mine[-1])):
            print(f"   run {run + 1}: {name} p50 {percentile(found.took, 0.5):.2f} ms, p99 {percentile(found.took, 0.99):.2f} ms, "
                  f"most {max(found.took):.1f} ms, {len(found.took)} probes, {found.tps:.0f} transactions/s", flush=True)
    for share in (0.5, 0.99):
        own, other = median_by(mine, share), median_by(theirs, share)
        value, beside = percentile(own.took, share), percentile(other.took, share)
        bench.report.single(f"commit to visible at {RATE:,} transactions/s, p{share * 100:.0f}", value, "ms", own,
                            native=beside, ratio=beside / value, native_cores=other.cores, native_rss=other.rss)


SCENARIOS = {"latency": (f"commit at the source to visible on the target at {RATE:,} transactions/s", latency)}
