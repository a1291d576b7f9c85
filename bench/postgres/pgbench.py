"""The plain case: a backlog of pgbench -N, two changes a transaction."""

import subprocess

from bench import Backlog


def backlog(bench):
    """Scale 20, so 2 million accounts; 350,000 changes by eight clients."""
    scale, changes = bench.amount(20), bench.amount(350_000)

    def schema(world):
        pgbench(world, "-i", "-q", "-s", scale)

    made = Backlog(bench, schema)
    pgbench(made.world, "-N", "-n", "-c", 8, "-j", 2, "-t", max(1, changes // 16), options="-c synchronous_commit=off")
    made.written(max(1, changes // 16) * 16)
    print(f"   backlog: {made.changes:,} changes, {made.wal / 2**20:.0f} MiB of WAL", flush=True)
    return made


def pgbench(world, *words, options="", server=None):
    """On the source, or another server of that world; what it prints is shown only when it fails."""
    argv = [Backlog.pg_bin() / "pgbench", *words, (server or world.source).dsn(world.db) + (f" options='{options}'" if options else "")]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))}\n{done.stdout}{done.stderr}")
    return done.stdout


def capture_and_apply(bench):
    made = backlog(bench)
    bench.pairs("capture of a pgbench -N backlog", made.changes, "changes", made.capture_ours, made.capture_native)
    bench.pairs("apply of a pgbench -N backlog", made.changes, "changes", made.apply_ours, made.apply_native)


SCENARIOS = {"pgbench": ("350,000 changes of pgbench -N: slot to spool, then spool to target", capture_and_apply)}
