"""The initial copy: from the programs' start until every table is ready on the target."""

import shutil

import psycopg2
from meter import Meter
from postgres.pgbench import pgbench
from world import until

TABLES, TABLE_ROWS = 1000, 50


class Copy:
    """A source that is filled once. Before each run the target's database is made anew, and ours forgets all: slot and spool."""

    def __init__(self, bench, fill, empty):
        """fill(world): the source's tables. empty(world): the target's, without rows, as a native subscription wants them."""
        self.bench, self.empty = bench, empty
        self.source = bench.server("source")
        self.target = bench.server("target")
        self.world = bench.world(self.source, self.target)
        fill(self.world)
        # Ours would leave out tables without an identity; both ways are to do the same work.
        self.world.src(f"create publication native for all tables; create publication sidespool_{self.world.name} for all tables")
        self.tables = self.world.src("select count(*) from pg_publication_tables where pubname = 'native'")[0][0]
        self.world.src("vacuum analyze")

    def fresh_target(self):
        self.target.sql(f"drop database if exists {self.world.db} with (force)")
        self.target.sql(f"create database {self.world.db}")

    def native(self, run):
        """A subscription that copies, until every table is 'r'."""
        self.fresh_target()
        self.empty(self.world)
        self.bench.settle()
        host = f"host=127.0.0.1 port={self.source.port} dbname={self.world.db} user=postgres"
        with Meter(source=self.source.pid, target=self.target.pid) as meter:
            self.world.dst(f"create subscription native connection '{host}' publication native")
            self.until_ready("select count(*) from pg_subscription_rel where srsubstate = 'r'")
            meter.stop()
        self.world.dst("drop subscription native")
        return meter

    def ours(self, run):
        """Agent and applier from their start, without slot and spool, until every table is ready."""
        self.fresh_target()
        self.source.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
                        f"ss_{self.world.db}")
        shutil.rmtree(self.world.spool_dir, ignore_errors=True)
        self.bench.settle()
        with Meter(source=self.source.pid, target=self.target.pid) as meter:
            agent, applier = self.world.start_agent(), self.world.start_applier()
            meter.add(agent=agent.pid, applier=applier.pid)
            self.until_ready("select count(*) from sidespool.table_state where status = 'ready'", agent, applier)
            meter.stop()
        applier.stop()
        agent.stop()
        return meter

    def until_ready(self, query, *processes, timeout=1800):
        watch = self.target.connect(self.world.db)
        cursor = watch.cursor()

        def all_ready():
            for process in processes:
                if not process.alive():
                    raise RuntimeError(process.tail())
            try:
                cursor.execute(query)
            except psycopg2.errors.UndefinedTable:  # ours has not made its bookkeeping yet
                return False
            return cursor.fetchone()[0] == self.tables

        until("the copy", all_ready, timeout, 0.02, lambda: "\n".join(process.tail() for process in processes))
        watch.close()


def accounts(bench):
    """Scale 20: two million accounts with their primary key."""
    scale = bench.amount(20)
    made = Copy(bench, lambda world: pgbench(world, "-i", "-q", "-s", scale),
                lambda world: pgbench(world, "-i", "-q", "-I", "dtp", server=world.target))
    bench.pairs("copy of pgbench_accounts", scale * 100_000, "rows", made.ours, made.native)


def small_tables(bench):
    count = bench.amount(TABLES)

    def run(server, db, text):
        for first in range(1, count + 1, 100):  # a transaction of its own for each hundred: max_locks_per_transaction
            server.sql("; ".join(text.format(n=n) for n in range(first, min(first + 100, count + 1))), dbname=db)

    schema = ("create table part{n}(id int primary key, at timestamptz not null default now(), note text);"
              "create index on part{n}(at)")
    rows = ";insert into part{n}(id, note) select i, 'note ' || i from generate_series(1, %d) i" % TABLE_ROWS
    made = Copy(bench, lambda world: run(world.source, world.db, schema + rows),
                lambda world: run(world.target, world.db, schema))
    bench.pairs(f"copy of {count:,} small tables", count, "tables", made.ours, made.native)


SCENARIOS = {"copy": ("2 million pgbench_accounts: start to ready", accounts),
             "copy_tables": (f"1,000 tables of {TABLE_ROWS} rows, a key and an index: start to ready", small_tables)}
