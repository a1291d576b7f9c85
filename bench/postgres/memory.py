"""How much memory the programs take: the largest RssAnon of the agent and of a route, beside what docs/architecture.md allows."""

import contextlib

from meter import Meter

AGENT, ROUTE = 64, 256  # MiB, and four times the largest single message


class Broken(RuntimeError):
    """A bound that does not hold; said when all cases of the scenario are through."""


class Memory:
    def __init__(self, bench):
        self.bench = bench
        # Changes of one transaction are spilled to disk at the source as anywhere; its WAL is not to fill the disk meanwhile.
        self.source = bench.server("source", synchronous_commit="off", max_wal_size="2GB")
        self.target = bench.server("target", max_wal_size="2GB")
        self.broken = []

    @contextlib.contextmanager
    def case(self, what, amount, message=0):
        """A world of its own, since memory that a program took once it may keep. message: bytes of the largest one."""
        world = self.bench.world(self.source, self.target)
        try:
            with Meter() as meter:
                yield world, meter
                world.wait(timeout=3600)
                meter.stop()
            extra = 4 * message / 2**20
            for name, bound in (("agent", AGENT), ("applier", ROUTE)):
                self.bench.report.single(f"RssAnon of the {name}: {what}", meter.rss[name], f"MiB of at most {bound + extra:.0f}",
                                         amount=amount, bound=bound + extra, seconds=meter.seconds)
                if meter.rss[name] > bound + extra:
                    self.broken.append(f"{what}: {name} {meter.rss[name]:.0f} MiB of at most {bound + extra:.0f}")
        finally:
            for process in world.procs:
                process.end()
            self.source.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
                            f"ss_{world.db}")
            for server in (self.source, self.target):
                server.sql(f"drop database if exists {world.db} with (force)")

    @staticmethod
    def start(world, meter, applier=True):
        meter.add(agent=world.start_agent().pid)
        if applier:
            meter.add(applier=world.start_applier().pid)

    def end(self):
        if self.broken:
            raise Broken("; ".join(self.broken))


def same(world, query):
    if world.src(query) != world.dst(query):
        raise RuntimeError(f"source and target differ: {query}: {world.src(query)} {world.dst(query)}")


def transaction(memory, size):
    """One transaction of `size` bytes of rows, about 1 kB each."""
    rows = max(1, size // 1000)
    with memory.case(f"a transaction of {size / 1e9:.2f} GB", size) as (world, meter):
        world.src("create table big(id bigint primary key, v text)")
        memory.start(world, meter)
        world.wait(timeout=120)
        world.src("insert into big select i, repeat(md5(i::text), 31) from generate_series(1, %s) i", rows)
        world.wait(timeout=3600)
        same(world, "select count(*), sum(length(v)), max(id) from big")


def values(memory, size):
    """A value of `size` characters in a row that is copied, and in one that is streamed; a bytea travels as hexadecimal text."""
    for kind, make, wire in (("text", "repeat(md5(random()::text), %s / 32)", size),
                             ("bytea", "decode(repeat(md5(random()::text), %s / 16), 'hex')", 2 * size)):
        for way in ("copied", "streamed"):
            with memory.case(f"a {way} {kind} of {size / 1e6:.0f} MB", size, wire) as (world, meter):
                world.src(f"create table wide(id int primary key, v {kind})")
                insert = f"insert into wide values (1, {make})"
                if way == "copied":
                    world.src(insert, size)
                memory.start(world, meter)
                world.wait(timeout=600)
                if way == "streamed":
                    world.src(insert, size)
                    world.wait(timeout=600)
                same(world, "select id, length(v), md5(v) from wide")


def backlog(memory, size):
    """What was written while there was no applier: transactions of 100 rows."""
    rows = max(100, size // 1000)
    with memory.case(f"a backlog of {size / 1e9:.2f} GB", size) as (world, meter):
        world.src("create table log(id bigint primary key, v text)")
        memory.start(world, meter)
        world.wait(timeout=120)
        world.applier.stop()
        world.src("do $$ begin for n in 0 .. %s loop insert into log select i, repeat(md5(i::text), 31) from "
                  "generate_series(n * 100, n * 100 + 99) i; commit; end loop; end $$", rows // 100 - 1)
        meter.add(applier=world.start_applier().pid)
        world.wait(timeout=3600)
        same(world, "select count(*), sum(length(v)), max(id) from log")


def bounds(bench):
    memory = Memory(bench)
    transaction(memory, bench.amount(5_000_000_000))
    values(memory, bench.amount(100_000_000))
    backlog(memory, bench.amount(1_000_000_000))
    memory.end()


SCENARIOS = {"memory": ("RssAnon through a 5 GB transaction, 100 MB values and a 1 GB backlog, beside the bounds", bounds)}
