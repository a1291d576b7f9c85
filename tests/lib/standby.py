"""Standbys, backups and promotions of the tests' servers."""

import os
import pathlib
import shutil
import subprocess

from servers import TOP, Postgres  # noqa: F401
from world import until


def own(path):
    """As root the servers run as nobody; what we put into their folders must be theirs."""
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "nobody:nogroup", path], check=True)


def programs_of(pg):
    return pathlib.Path(pg.env.get("SIDESPOOL_PG_BIN", "/usr/lib/postgresql/15/bin"))


def base_backup(pg, folder, standby=False):
    """pg_basebackup into folder/data; with `standby` it is one that streams from pg once started."""
    folder = pathlib.Path(folder)
    folder.mkdir(mode=0o755)
    words = ["-R"] if standby else []
    subprocess.run([programs_of(pg) / "pg_basebackup", "-D", folder / "data", "-X", "stream", "-c", "fast", *words, "-d",
                    f"host=127.0.0.1 port={pg.port} user=postgres"], check=True, stdout=subprocess.DEVNULL)
    own(folder)
    return folder


def standby_of(pg, folder, **settings):
    """A running standby with the same settings; `remove()` is the caller's."""
    made = Postgres(base_backup(pg, folder, standby=True), **{**pg.settings, "wal_keep_size": "256MB", **settings})
    made.env = dict(pg.env)
    return made.start()


def caught_up(pg, standby):
    end = pg.one("select pg_current_wal_flush_lsn()::text")
    until("the standby", lambda: standby.one("select pg_last_wal_replay_lsn() >= %s::pg_lsn", end), 30)


def promote(standby):
    standby.sql("select pg_promote(true, 60)")


def carry_slot(pg, standby, slot):
    """What Patroni and pg_failover_slots do before version 17: the slot's state file goes over while the standby is down."""
    standby.stop()
    target = standby.folder / "data" / "pg_replslot" / slot
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(pg.folder / "data" / "pg_replslot" / slot, target)
    own(target)
    standby.start()
