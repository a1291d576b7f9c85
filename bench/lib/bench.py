"""A pair of servers with default durability, and sidespool between them, for the scenarios."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from meter import Meter, median, spread
from servers import SCRIPT, Postgres
from world import Process, World, until

# What PostgreSQL ships with, where the tests' servers are trimmed for a fast start. wal_level=logical is what both ways need.
# The launcher starts a subscription's worker at most once in wal_retrieve_retry_interval (5 s), whichever subscription it was for: a run that
# follows another one soon would wait for that, so it is shortened.
DEFAULTS = {"wal_retrieve_retry_interval": "100ms", "fsync": "on", "full_page_writes": "on", "autovacuum_naptime": "1min", "shared_buffers": "128MB",
            "max_connections": "100", "dynamic_shared_memory_type": "posix"}
PRINTED = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_compression", "shared_buffers",
           "max_wal_size", "checkpoint_timeout", "logical_decoding_work_mem", "autovacuum")


def lsn(text):
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


class Bench:
    """One scenario's folder, servers and programs; close() ends and removes all of them."""

    def __init__(self, args, report):
        self.runs, self.scale, self.report = args.runs, args.scale, report
        self.folder = pathlib.Path(subprocess.run([SCRIPT, "folder", "ssbench"], check=True, stdout=subprocess.PIPE,
                                                  text=True).stdout.strip())
        self.made = []
        self.processes = []
        self.worlds = []

    def amount(self, full):
        return max(1, int(full * self.scale))

    def server(self, name, **settings):
        pg = Postgres(self.folder / name, **{**DEFAULTS, **settings}).start()
        self.made.append(pg)
        if len(self.made) == 1:
            print("   " + ", ".join(f"{key} {pg.one(f'show {key}')}" for key in PRINTED), flush=True)
        return pg

    def world(self, source, target, **kw):
        kw.setdefault("spool", {"max_size": "32GiB"})
        world = World(self.folder / f"w{len(self.worlds)}", source, target, **kw)
        self.worlds.append(world)
        return world

    def process(self, argv, name, **kw):
        made = Process(argv, self.folder / f"{name}.log", **kw)
        self.processes.append(made)
        return made

    def close(self):
        for process in self.processes:
            process.end()
        for world in self.worlds:
            for process in world.procs:
                process.end()
        for pg in self.made:
            pg.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def settle(self, *servers):
        """Before each run: no dirty page of the run before is written in this one's time."""
        for pg in servers or self.made:
            pg.sql("checkpoint")
        os.sync()

    def pairs(self, scenario, amount, unit, ours, native):
        """Runs both in turns, the native tool first, and reports the medians. Each returns a Meter."""
        mine, theirs = [], []
        for run in range(self.runs):
            theirs.append(native(run))
            mine.append(ours(run))
            print(f"   run {run + 1}: sidespool {mine[-1].seconds:.2f} s, native {theirs[-1].seconds:.2f} s", flush=True)
        return self.report.pair(scenario, amount, unit, median(mine), median(theirs),
                                f"{spread(mine):.0%}, native {spread(theirs):.0%}" if self.runs > 1 else "one run")


class Backlog:
    """Changes that wait at the source: for a slot that a native tool reads, and for sidespool's own.

    The same backlog can be captured again and again: before each run the slot is made anew as a copy of one that nobody
    reads, and the spool folder is put back. The target's databases are clones of one that holds the copy from before the backlog."""

    def __init__(self, bench, schema, settings=None, tables=None):
        self.bench = bench
        self.source = bench.server("source", **(settings or {}))
        self.target = bench.server("target", **(settings or {}))
        self.world = bench.world(self.source, self.target, tables=tables)
        world = self.world
        if callable(schema):
            schema(world)
        else:
            world.src(schema)
        # Ours would leave out tables without an identity; both ways are to do the same work.
        world.src("create table bench_end(n int primary key); create publication native for all tables")
        self.slot = f"ss_{world.db}"
        self.agent_publication()
        world.start()
        world.until_state("streaming", timeout=600)
        world.wait(timeout=600)
        world.applier.stop()
        world.agent.stop()
        self.route_db = world.db
        for kept in ("kept_native", "kept_ours"):
            self.source.sql("select pg_copy_logical_replication_slot(%s, %s)", self.slot, kept, dbname=self.world.db)
        self.start = self.source.one("select pg_current_wal_insert_lsn()::text")
        self.saved = bench.folder / "spool.saved"
        shutil.copytree(world.spool_dir, self.saved, ignore=self.sockets)
        self.clones = 0

    def agent_publication(self):
        """The tables' publication, made before the agent looks for it."""
        self.world.src(f"create publication sidespool_{self.world.name} for all tables")

    @staticmethod
    def sockets(folder, names):
        return [name for name in names if (pathlib.Path(folder) / name).is_socket()]

    def written(self, changes):
        """The load is done: a last change marks its end. What lies beyond `before` is the end of the backlog."""
        self.changes = changes
        self.before = self.source.one("select pg_current_wal_insert_lsn()::text")
        self.world.src("insert into bench_end values (1)")
        self.end = self.source.one("select pg_current_wal_insert_lsn()::text")
        self.wal = lsn(self.end) - lsn(self.start)

    def renew_slot(self, name, kept):
        self.source.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", name)
        self.source.sql("select pg_copy_logical_replication_slot(%s, %s)", kept, name, dbname=self.world.db)

    # -- capture
    def capture_native(self, run):
        """pg_recvlogical writes pgoutput to a file and fsyncs it at the end."""
        self.renew_slot("native", "kept_native")
        self.bench.settle()
        out = self.bench.folder / "recvlogical.out"
        out.unlink(missing_ok=True)
        argv = [self.pg_bin() / "pg_recvlogical", "-d", self.source.dsn(self.world.db), "-S", "native", "--start", "-f", out,
                "--endpos", self.end, "--no-loop", "-o", "proto_version=1", "-o", "publication_names=native"]
        with Meter(source=self.source.pid) as meter:
            process = self.bench.process(argv, "recvlogical")
            meter.add(recvlogical=process.pid)
            code = self.wait_end(process)
            meter.stop()
        if code != 0:
            raise RuntimeError(process.tail())
        return meter

    @staticmethod
    def wait_end(process):
        """Waits without reaping, so that /proc still has the CPU time of what ended."""
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT).si_status

    @staticmethod
    def pg_bin():
        return pathlib.Path(os.environ.get("SIDESPOOL_PG_BIN", "/usr/lib/postgresql/15/bin"))

    def restore_spool(self):
        shutil.rmtree(self.world.spool_dir, ignore_errors=True)
        shutil.copytree(self.saved, self.world.spool_dir)

    def capture_ours(self, run):
        """The agent from its start until the end of the backlog is durable in the spool."""
        self.renew_slot(self.slot, "kept_ours")
        self.restore_spool()
        self.bench.settle()
        with Meter(source=self.source.pid) as meter:
            agent = self.world.start_agent()
            meter.add(agent=agent.pid)
            self.until_captured()
            meter.stop()
        agent.stop()
        return meter

    def until_captured(self, timeout=1200):
        deadline = time.monotonic() + timeout
        while True:
            status = self.agent_status()
            self.goal = status["last_change"] if status else 0
            if status and status.get("position") and lsn(status["position"]) > lsn(self.before):
                return status
            if not self.world.agent.alive() or time.monotonic() > deadline:
                raise RuntimeError(self.world.agent.tail())
            time.sleep(0.02)

    def agent_status(self):
        """Asked of agent.sock, for that costs next to nothing; None while the agent is not up."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(10)
                link.connect(str(self.world.spool_dir / self.world.name / "agent.sock"))
                link.sendall(b'{"op":"status"}\n')
                return json.loads(link.makefile().readline())
        except (FileNotFoundError, ConnectionError):
            return None

    # -- apply
    def clone(self):
        """A database that holds the copy from before the backlog."""
        self.clones += 1
        name = f"clone{self.clones}"
        if self.clones > 1:
            self.target.sql(f"drop database if exists clone{self.clones - 1} with (force)")
        self.target.sql(f"create database {name} template {self.route_db}")
        return name

    def apply_native(self, run):
        """A subscription from its start until it has the end of the backlog."""
        name = self.clone()
        self.target.sql("drop schema sidespool cascade", dbname=name)
        self.renew_slot("native", "kept_native")
        self.bench.settle()
        host = f"host=127.0.0.1 port={self.source.port} dbname={self.world.db} user=postgres"
        with Meter(source=self.source.pid, target=self.target.pid) as meter:
            self.target.sql(f"create subscription native connection '{host}' publication native "
                            "with (copy_data = false, create_slot = false, slot_name = native)", dbname=name)
            watch = self.target.connect(name)
            cursor = watch.cursor()
            deadline = time.monotonic() + 1800
            while True:
                # What is flushed at the target: what the origin's progress says.
                cursor.execute("select pg_replication_origin_progress(roname, false)::text from pg_replication_origin")
                row = cursor.fetchone()
                if row and row[0] and lsn(row[0]) > lsn(self.before):
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError("the subscription does not reach the end of the backlog")
                time.sleep(0.02)
            meter.stop()
        watch.close()
        self.target.sql("alter subscription native disable", dbname=name)
        self.target.sql("alter subscription native set (slot_name = none)", dbname=name)
        self.target.sql("drop subscription native", dbname=name)
        until("the slot at rest", lambda: not self.source.one(
            "select active from pg_replication_slots where slot_name = 'native'"))
        return meter

    def apply_ours(self, run):
        """The applier from its start until the target's own progress holds the last change of the spool. The agent rests."""
        name = self.clone()
        self.world.db, source_db = name, self.world.db
        self.world.write_config()
        self.world.db = source_db
        self.bench.settle()
        with Meter(target=self.target.pid) as meter:
            applier = self.world.start_applier()
            meter.add(applier=applier.pid)
            watch = self.target.connect(name)
            cursor = watch.cursor()
            deadline = time.monotonic() + 1800
            while True:
                cursor.execute("select max(sequence) from sidespool.progress")
                if cursor.fetchone()[0] >= self.goal:
                    break
                if not applier.alive() or time.monotonic() > deadline:
                    raise RuntimeError(applier.tail())
                time.sleep(0.02)
            meter.stop()
        watch.close()
        applier.stop()
        return meter
