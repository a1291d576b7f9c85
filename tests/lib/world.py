"""A source, an agent, a spool, an applier and a target, as a user would set them up."""

import json
import os
import pathlib
import signal
import subprocess
import time

from servers import TOP, Postgres

BIN = pathlib.Path(os.environ.get("SIDESPOOL_BIN", TOP / "build" / "release" / "bin"))


class Failure(AssertionError):
    """Says what was awaited and what the programs said last."""


def until(what, fn, timeout=30, every=0.05, tell=None):
    """Waits until fn() is true and returns it. No test asserts on speed: the limit only ends a hang."""
    deadline = time.monotonic() + timeout
    while True:
        got = fn()
        if got:
            return got
        if time.monotonic() > deadline:
            raise Failure(f"waited {timeout} s for: {what}" + (f"\n{tell()}" if tell else ""))
        time.sleep(every)


class Process:
    """A program under test, with its log in a file."""

    def __init__(self, argv, log, env=None, prefix=()):
        self.log = pathlib.Path(log)
        self.argv = [str(a) for a in (*prefix, *argv)]
        self.file = open(self.log, "ab")
        self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.file, stderr=self.file,
                                      env={**os.environ, **(env or {})}, start_new_session=True)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def traced(self):
        """The program's own pid when it runs under strace, which passes no signal on."""
        if not self.argv[0].endswith("strace"):
            return None
        found = subprocess.run(["pgrep", "--parent", str(self.popen.pid)], stdout=subprocess.PIPE, text=True).stdout.split()
        return int(found[0]) if found else None

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """kill -9 of this process alone."""
        if self.alive():
            self.popen.kill()
        self.popen.wait(20)

    def stop(self, timeout=20):
        """SIGTERM; a program that does not end in time fails the test."""
        if self.alive():
            os.kill(self.traced() or self.popen.pid, signal.SIGTERM)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failure(f"{self.argv[0]} did not end within {timeout} s after SIGTERM\n{self.tail()}") from None

    def end(self):
        """Whatever is left of the process group, for clean-up."""
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait(20)
        self.file.close()

    def text(self):
        return self.log.read_text(errors="replace")

    def tail(self, lines=25):
        return f"--- {self.log.name}\n" + "\n".join(self.text().splitlines()[-lines:])


class World:
    """Everything under one folder. Databases on the servers are made fresh for each world, so worlds can share servers."""

    counter = 0

    def __init__(self, folder, source, target, name="shop", tables=None, agent=None, route=None, applier=None,
                 spool=None, database=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.source, self.target, self.name = source, target, name
        World.counter += 1
        self.db = database or f"w{os.getpid()}_{World.counter}"
        if not database:
            source.sql(f"create database {self.db}")
            target.sql(f"create database {self.db}")
        self.tables = tables or {}
        self.agent_extra, self.route_extra, self.applier_extra = agent or {}, route or {}, applier or {}
        self.spool_dir = self.folder / "spool"
        self.spool = {"path": str(self.spool_dir), "max_size": "1GiB", "retain": "0s", **(spool or {})}
        self.agent = self.applier = None
        self.procs = []
        self.env = {}
        self.write_config()

    # -- configuration -------------------------------------------------------------------------------------------
    @property
    def agent_file(self):
        return self.folder / "agent.yaml"

    @property
    def applier_file(self):
        return self.folder / "applier.yaml"

    def write_config(self):
        """JSON is YAML: json.dumps keeps quoting right."""
        agent = {"source": self.name,
                 "postgres": {"dsn": self.source.dsn(self.db), "publication": f"sidespool_{self.name}",
                              "slot": f"ss_{self.db}"},
                 "spool": self.spool, **self.agent_extra}
        if self.tables:
            agent["tables"] = self.tables
        applier = {"spool": {"path": str(self.spool_dir)}, "control": {"socket": str(self.folder / "applier.sock")},
                   "routes": [{"source": self.name, "name": self.name,
                               "target": {"postgres": {"dsn": self.target.dsn(self.db)}}, **self.route_extra}],
                   **self.applier_extra}
        self.agent_file.write_text(json.dumps(agent, indent=1) + "\n")
        self.applier_file.write_text(json.dumps(applier, indent=1) + "\n")

    # -- programs ------------------------------------------------------------------------------------------------
    def start_agent(self, prefix=(), env=None):
        self.spool_dir.mkdir(exist_ok=True)
        self.agent = Process([BIN / "sidespool-postgres", "--config", self.agent_file], self.folder / "agent.log",
                             {**self.env, **(env or {})}, prefix)
        self.procs.append(self.agent)
        return self.agent

    def start_applier(self, prefix=(), env=None):
        self.applier = Process([BIN / "sidespool-applier", "--config", self.applier_file], self.folder / "applier.log",
                               {**self.env, **(env or {})}, prefix)
        self.procs.append(self.applier)
        return self.applier

    def start(self):
        self.start_agent()
        self.start_applier()
        return self

    def run(self, program, *args, check=None, timeout=120):
        done = subprocess.run([str(BIN / program), *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=timeout, env={**os.environ, **self.env})
        if check is not None and done.returncode != check:
            raise Failure(f"{program} {' '.join(map(str, args))}: exit {done.returncode}, wanted {check}\n"
                          f"{done.stdout}\n{done.stderr}\n{self.tell()}")
        return done

    def run_in_background(self, command, *args):
        """One of `sidespool`'s commands, which the test does not wait for yet."""
        return subprocess.Popen([str(BIN / "sidespool"), command, "--config", str(self.applier_file), *map(str, args)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **self.env})

    def cli(self, command, *args, check=None, timeout=120):
        return self.run("sidespool", command, "--config", self.applier_file, *args, check=check, timeout=timeout)

    def status(self):
        done = self.cli("status", "--json")
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None

    def route(self):
        """The first route's part of `status --json`, or None while there is no applier."""
        status = self.status()
        return status["routes"][0] if status and status["routes"] else None

    def state(self):
        route = self.route()
        return route["state"] if route else None

    def until_state(self, *states, timeout=60):
        return until(f"route state {' or '.join(states)}", lambda: (lambda s: s in states and s)(self.state()), timeout,
                     0.1, lambda: f"status: {self.status()}\n{self.tell()}")

    def until_log(self, process, text, timeout=30):
        return until(f"{text!r} in {process.log.name}", lambda: text in process.text(), timeout, 0.1, self.tell)

    def wait(self, timeout=60):
        """Until the target holds all that the source holds now, also through the first copy and restarts."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(1, int(deadline - time.monotonic()))
            done = self.cli("wait", "--route", self.name, "--timeout", left, timeout=left + 30)
            if done.returncode == 0:
                return
            if done.returncode not in (69, 75) or time.monotonic() > deadline:
                raise Failure(f"wait: exit {done.returncode}: {done.stdout}{done.stderr}\nstatus: {self.status()}\n{self.tell()}")
            time.sleep(0.2)

    def verify(self, *tables, check=0):
        return self.cli("verify", "--route", self.name, *tables, check=check)

    def tell(self):
        return "\n".join(p.tail() for p in {p.log: p for p in self.procs}.values())

    # -- databases -----------------------------------------------------------------------------------------------
    def src(self, text, *args):
        return self.source.sql(text, *args, dbname=self.db)

    def dst(self, text, *args):
        return self.target.sql(text, *args, dbname=self.db)

    def same(self, table, columns="*"):
        """The tests' own comparison, independent of `sidespool verify`: every row as text, as a multiset."""
        query = f"select md5(coalesce(string_agg(r, E'\\n' order by r collate \"C\"), '')), count(*) " \
                f"from (select t::text as r from (select {columns} from {table}) t) s"
        return self.src(query) == self.dst(query)

    def assert_same(self, *tables):
        for table in tables:
            if not self.same(table):
                source = {r[0] for r in self.src(f"select t::text from {table} t")}
                target = {r[0] for r in self.dst(f"select t::text from {table} t")}
                raise Failure(f"{table} differs: only source {list(source - target)[:5]}, only target "
                              f"{list(target - source)[:5]}\nstatus: {self.status()}\n{self.tell()}")

    def close(self):
        for process in self.procs:
            process.end()
        for server, is_source in ((self.source, True), (self.target, False)):
            try:
                if is_source:
                    server.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots "
                               "where database = %s and not active", self.db)
                server.drop(self.db)
            except Exception as error:  # a test may have stopped the server: its folder is removed anyway
                print(f"clean-up of {self.db}: {error}")
