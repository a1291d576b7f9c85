"""kill -9 at every write, fsync and unlink of the spool and at every message to the target.

First one undisturbed run under strace counts the system calls of agent, route and supervisor; then each run is the same
story with a KILL injected at the n-th call of one kind (strace stops the victim before the call takes place, so point n
is also "right after call n - 1"). The victim is then started again as a service manager would, and in the end both databases
are equal, an append-only table without a key counted exactly.

A sample of 60 points by default, all of them with --long.
"""

import collections
import random
import re
import time

import pytest

from world import until

SPOOL_CALLS = ("pwrite64", "pwritev", "fdatasync", "fsync", "unlink", "unlinkat", "ftruncate", "rename", "renameat2")
TARGET_CALLS = ("sendto",)  # libpq's messages, to the source's and the target's server
ALL = SPOOL_CALLS + TARGET_CALLS
GROUPS = 6
SAMPLE = 60

SCHEMA = """
create table item(id int primary key, name text unique, big text);
create table log(at int, line text);
alter table log replica identity full;
insert into item select i, 'i' || i, null from generate_series(1, 300) i;
insert into log select i % 7, 'line' from generate_series(1, 200) i;
"""


def story(w, ready, after_copy):
    """The same work each time: a copy, small transactions, one that fills segments, a quiet moment, an end."""
    w.src(SCHEMA)
    ready()
    after_copy()
    conn = w.source.connect(w.db, autocommit=False)
    with conn.cursor() as cur:
        for n in range(12):
            cur.execute("insert into log select %s, 'line' from generate_series(1, 5)", (n % 7,))
            cur.execute("update item set name = 'n' || id || %s where id %% 12 = %s", (f"-{n}", n))
            cur.execute("delete from item where id = %s", (n + 1,))
            conn.commit()
            time.sleep(0.03)
        # Incompressible, so that segments are filled, rolled and trimmed.
        cur.execute("update item set big = (select string_agg(md5(random()::text || i || id), '') from generate_series(1, 1500) i) where id > 240")
        conn.commit()
    conn.close()


def make(make_world):
    return make_world(spool={"segment_size": "1MiB", "max_size": "64MiB"}, route={"name": "shop"})


def strace(out, calls, inject=None):
    words = ["strace", "-f", "-q", "-o", str(out), "-e", "trace=" + ",".join(calls), "-e", "signal=KILL"]
    if inject:
        call, n = inject
        words += ["-e", f"inject={call}:signal=KILL:when={n}"]
    return words


def comm(process_log):
    return collections.Counter(re.findall(r"^\d+ +(\w+)\(", process_log.read_text(errors="replace"), re.M))


def per_thread(process_log):
    """The highest count of each call in one thread: strace's when= counts each thread by itself."""
    seen = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", process_log.read_text(errors="replace"), re.M))
    most = collections.Counter()
    for (_, call), count in seen.items():
        most[call] = max(most[call], count)
    return most


@pytest.fixture(scope="module")
def points(request, folder, source_server, target_server):
    """Counts the calls once per worker, on a world of its own."""
    from world import World
    w = World(folder / f"count-{time.monotonic_ns()}", source_server, target_server, spool={"segment_size": "1MiB", "max_size": "64MiB"})
    try:
        story(w, lambda: (w.start_agent(strace(w.folder / "agent.strace", ALL)),
                          w.start_applier(strace(w.folder / "applier.strace", ALL))), lambda: w.wait(120))
        w.wait(120)
        time.sleep(1.5)  # trim
        w.agent.stop()
        w.applier.stop()
        found = []
        for victim in ("agent", "applier"):
            for call, count in sorted(per_thread(w.folder / f"{victim}.strace").items()):
                found += [(victim, call, n) for n in range(1, count + 1)]
        kinds = {(v, c) for v, c, _ in found}
        assert {("agent", "pwrite64"), ("agent", "fdatasync"), ("agent", "unlink"), ("applier", "sendto")} <= kinds, kinds
        return found
    finally:
        w.close()


def run_point(w, victim, call, n):
    out = w.folder / "kill.strace"
    prefix = strace(out, (call,), (call, n))

    def ready():
        w.start_agent(prefix if victim == "agent" else ())
        w.start_applier(prefix if victim == "applier" else ())

    def died():
        return out.exists() and "+++ killed by SIGKILL" in out.read_text(errors="replace")

    def revive():
        """What a service manager does: the victim comes back, without the injection."""
        process = w.agent if victim == "agent" else w.applier
        process.end()
        w.start_agent() if victim == "agent" else w.start_applier()

    state = {"revived": False}

    def look():
        """Revives the victim once it has died; true when that has happened."""
        if died() and not state["revived"]:
            revive()
            state["revived"] = True
        return state["revived"]

    # The copy may or may not get through before the kill: wait for one or the other.
    story(w, ready, lambda: until("copy done or victim killed", lambda: look() or w.state() == "streaming", 90, 0.1, w.tell))

    def settled():
        look()
        return w.cli("wait", "--route", "shop", "--timeout", 3).returncode == 0

    until("all is applied", settled, 120, 0.2, w.tell)
    time.sleep(0.3)  # trim and idle positions, where late points lie
    look()
    until("all is applied", settled, 120, 0.2, w.tell)
    w.assert_same("item", "log")
    w.src("insert into log values (99, 'after'); update item set name = 'after' where id = 100")
    until("what came after is applied", settled, 60, 0.2, w.tell)
    w.assert_same("item", "log")
    return state["revived"]


@pytest.mark.parametrize("group", range(GROUPS))
def test_killed_at(make_world, points, request, seed, group):
    rng = random.Random(seed)
    chosen = points if request.config.getoption("--long") else rng.sample(points, min(SAMPLE, len(points)))
    mine = chosen[group::GROUPS]
    reached = 0
    for victim, call, n in mine:
        w = make(make_world)
        print(f"point {victim} {call} {n} of {len(points)}", flush=True)
        try:
            reached += run_point(w, victim, call, n)
        except BaseException:
            print(f"FAILED at {victim} {call} {n}\n{w.tell()}")
            raise
        w.close()
    print(f"{reached} of {len(mine)} points were reached")
    assert reached >= len(mine) * 0.6, f"only {reached} of {len(mine)} kills took place: the counts do not fit the story any more"
