"""Real PostgreSQL servers for tests: throwaway folders, loopback, free ports."""

import contextlib
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

    def remove(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
