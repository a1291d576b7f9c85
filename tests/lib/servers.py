"""Real PostgreSQL servers for tests: throwaway folders, loopback, free ports."""

import contextlib
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import time

import psycopg2
import psycopg2.extensions

TOP = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = TOP / "scripts" / "servers" / "postgres"


DEBIAN = 15  # Debian 12's own major version


@functools.cache
def programs(version):
    """The folder of a major version's programs, fetched once; or None and the sentence why they cannot be had."""
    done = subprocess.run([SCRIPT.parent / "get-postgres", str(version)], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip(), ""
    if done.returncode == 69 and version != DEBIAN:
        return None, done.stderr.strip().splitlines()[-1]
    raise RuntimeError(f"get-postgres {version}: exit {done.returncode}: {done.stderr}")


class Postgres:
    """One server. fsync stays on unless a test says otherwise: crash tests need it."""

    def __init__(self, folder, template=None, bin_dir=None, **settings):
        self.folder = pathlib.Path(folder)
        self.settings = {"fsync": "off", "full_page_writes": "off", "autovacuum_naptime": "5s", **settings}
        self.env = dict(os.environ)
        if bin_dir:
            self.env["SIDESPOOL_PG_BIN"] = str(bin_dir)
        self.port = None
        self.pid = None
        if template and not self.folder.exists():
            # A copied data folder starts in a tenth of initdb's time, but then both would have one system identifier.
            raise ValueError("servers need system identifiers of their own: no templates")

    def start(self, **settings):
        self.settings.update(settings)
        words = [f"{k}={v}" for k, v in self.settings.items()]
        out = subprocess.run([SCRIPT, "start", self.folder, *words], env=self.env, check=True,
                             stdout=subprocess.PIPE, text=True).stdout.split()
        self.port, self.pid = int(out[0]), int(out[1])
        return self

    def stop(self, mode="fast"):
        subprocess.run([SCRIPT, "stop", self.folder, mode], env=self.env, check=True)

    def kill(self):
        """kill -9 of the postmaster; its children notice and end."""
        children = subprocess.run(["pgrep", "--parent", str(self.pid)], stdout=subprocess.PIPE, text=True).stdout.split()
        os.kill(self.pid, signal.SIGKILL)
        # A new postmaster refuses to start while a child of the old one holds the shared memory.
        deadline = time.monotonic() + 30
        while any(pathlib.Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline, "children of a killed postmaster do not end"
            time.sleep(0.05)

    def dsn(self, dbname="postgres", user="postgres", host=None):
        return f"host={host or self.folder} port={self.port} dbname={dbname} user={user}"

    def connect(self, dbname="postgres", autocommit=True, **kw):
        conn = psycopg2.connect(self.dsn(dbname), **kw)
        conn.autocommit = autocommit
        return conn

    def sql(self, text, *args, dbname="postgres"):
        """Runs statements; returns the rows of the last one, if it has any."""
        conn = self.connect(dbname)
        try:
            with conn.cursor() as cur:
                cur.execute(text, args or None)
                return cur.fetchall() if cur.description else None
        finally:
            conn.close()

    def one(self, text, *args, dbname="postgres"):
        return self.sql(text, *args, dbname=dbname)[0][0]

    @functools.cached_property
    def major(self):
        return int(self.one("show server_version_num")) // 10000

    def drop(self, dbname):
        if self.major < 13:  # no FORCE yet
            self.sql(f"revoke connect on database {dbname} from public")
            self.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", dbname)
        self.sql(f"drop database if exists {dbname}" + (" with (force)" if self.major >= 13 else ""))

    def remove(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
