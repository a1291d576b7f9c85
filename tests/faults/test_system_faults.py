"""System calls and allocations that fail, in agent, supervisor and route, and then work again.

Each case is the same small story on real servers: a program starts, small transactions, one that fills segments, a resync. In
its midst a call of one kind fails at its n-th time, and some of those after it; then the cause is gone. The programs must go
on by themselves (one that ended is started again as its systemd unit says), end with equal databases, an append-only table
without a key counted exactly, and must have said what the trouble was: in a log, or to the one whose command it hit.

Also a file system that is really full, and descriptors that really run out. A seeded sample by default, --long takes all.
"""

import errno
import json
import os
import random
import re
import resource
import time

import pytest

import faults
from faults import ROLES, SHORT, Faults
from test_kill_points import SCHEMA
from world import Failure, World, until

NEVER_AGAIN = (2, 78)  # RestartPreventExitStatus= of the units
E = errno
ERRORS = {
    "open": (E.EMFILE, E.EIO, E.EINTR), "write": (E.ENOSPC, E.EDQUOT, E.EIO, E.EINTR, SHORT), "sync": (E.EIO, E.ENOSPC, E.EDQUOT),
    "truncate": (E.ENOSPC, E.EIO), "rename": (E.ENOSPC, E.EIO), "unlink": (E.EIO,), "mmap": (E.ENOMEM, E.ENFILE),
    "mkdir": (E.ENOSPC, E.EDQUOT), "socket": (E.EMFILE, E.ENOBUFS), "connect": (E.ECONNREFUSED, E.EINTR, E.EAGAIN),
    "accept": (E.EMFILE, E.EINTR, E.ECONNABORTED), "send": (E.ECONNRESET, E.EPIPE, E.EINTR, SHORT),
    "receive": (E.ECONNRESET, E.EINTR, E.ENOMEM, SHORT), "poll": (E.EINTR, E.ENOMEM), "epoll": (E.EINTR, E.ENOMEM),
    "thread": (E.EAGAIN,), "spawn": (E.EAGAIN, E.ENOMEM)}
FILES = ("open", "write", "sync", "truncate", "rename", "unlink", "mmap", "mkdir")
CALLS = 12   # cases of a role in the default run
SITES = 14
TOGETHER = 4  # places that allocate in one case, each refused once, one after the other
MOST_AT = 10  # --long: places of one kind and error in the story
GROUPS = {"calls": 4, "memory": 4}  # with --long; else the first alone


def of_no_consequence(kind, error):
    """Done again at once, in full, or by the peer: there is nothing to tell a person."""
    return error in (E.EINTR, SHORT, E.ECONNABORTED) or kind == "poll"  # a wait that fails is waited again


class Story:
    """A world that lasts for many cases: each begins and ends with both sides equal."""

    def __init__(self, world):
        self.w = world
        self.faults = Faults(world)
        world.env.update(self.faults.env)
        world.src(SCHEMA)
        self.turn = 0
        self.exits, self.told = [], []
        self.marks = {}

    def begin(self):
        self.w.start()
        self.w.wait(120)
        return self

    def mark_logs(self):
        self.marks = {log: len(log.read_text(errors="replace")) for log in (self.w.agent.log, self.w.applier.log)}
        self.exits, self.told = [], []

    def logs(self):
        return "".join(log.read_text(errors="replace")[mark:] for log, mark in self.marks.items())

    def command(self, *words):
        """One of the commands; what it says counts as said."""
        done = self.w.cli(*words)
        if done.returncode != 0:
            self.told += done.stderr.splitlines()
        return done

    def revive(self):
        """What systemd does with a program that ended."""
        for name, start in (("agent", self.w.start_agent), ("applier", self.w.start_applier)):
            process = getattr(self.w, name)
            if process.alive():
                continue
            code = process.popen.returncode
            self.exits.append((name, code))
            if code == 0:
                raise Failure(f"the {name} ended by itself with exit code 0\n{process.tail()}")
            if code in NEVER_AGAIN:
                raise Failure(f"the {name} ended with {code}, and its unit does not start it again\n{process.tail()}")
            if code < 0:
                raise Failure(f"the {name} was ended by signal {-code}\n{process.tail()}")
            if len(self.exits) > 60:
                raise Failure(f"the {name} ends again and again\n{process.tail()}")
            process.end()
            start()

    def restart(self, role):
        """The victim begins anew, so that what it does at its start is a part of the story."""
        self.revive()
        process = self.w.agent if role == "agent" else self.w.applier
        code = process.stop()
        if code != 0:
            raise Failure(f"stopped with {code}\n{process.tail()}")
        self.w.procs.remove(process)
        process.end()

    def start(self, role):
        self.w.start_agent() if role == "agent" else self.w.start_applier()

    def work(self):
        w, n = self.w, self.turn
        self.turn += 1
        conn = w.source.connect(w.db, autocommit=False)
        with conn.cursor() as cur:
            for i in range(3):
                cur.execute("insert into log select %s, 'line' from generate_series(1, 5)", (i,))
                cur.execute("update item set name = 'n' || id || %s where id %% 40 = %s", (f"-{n}-{i}", i))
                conn.commit()
            # Incompressible, so that segments are filled, rolled and trimmed.
            cur.execute("update item set big = (select string_agg(md5(random()::text || i || id), '') from generate_series(1, 700) i) where id > 250")
            conn.commit()
        conn.close()
        return self.command("resync", "--route", "shop", "public.item").returncode

    def status(self):
        self.revive()
        done = self.command("status", "--json")
        return done if done.returncode == 0 else None

    def halted(self):
        done = until("a status", lambda: self.status(), 30, 0.2, self.w.tell)
        status = json.loads(done.stdout)
        self.told += [trouble["text"] for trouble in status["troubles"]]
        route = status["routes"][0]
        for part in (route, route and route["agent"]):
            if part and part["state"] == "halted":
                return part["reason"]
        return None

    def settle(self):
        def settled():
            self.revive()
            done = self.command("wait", "--route", "shop", "--timeout", 2)
            if done.returncode == 1:
                raise Failure(f"a person would be needed: {done.stderr}{done.stdout}\n{self.w.tell()}")
            return done.returncode == 0
        until("all is applied", settled, 60, 0.1, self.w.tell)
        self.revive()
        crashed = re.findall(r"was killed by SIG(?!KILL)\w+", self.logs())
        if crashed:
            raise Failure(f"a route {crashed[0]}\n{self.w.tell()}")
        reason = self.halted()
        if reason:
            raise Failure(f"halted: {reason}\n{self.w.tell()}")
        self.w.assert_same("item", "log")

    def case(self, role, arm):
        """Returns what was said in it: lines of the logs, and answers to commands."""
        self.restart(role)
        self.mark_logs()
        arm()
        self.start(role)
        if self.work() != 0:  # the one who asked was told; the same is asked again when all is well
            until("the resync is taken", self.resync_again, 60, 0.2, self.w.tell)
        self.settle()
        self.faults.clear()
        ended = len(self.exits)
        self.revive()
        if len(self.exits) > ended:  # the fault came after all was said and done
            self.settle()
        return faults.complaints(self.logs()) + self.told

    def resync_again(self):
        self.revive()
        return self.command("resync", "--route", "shop", "public.item").returncode == 0

    def judge_call(self, kind, error, said):
        """A trouble with consequences is told, a file's with its directory."""
        if self.faults.state.failed == 0 or of_no_consequence(kind, error):
            return
        if kind == "unlink" and self.faults.about().endswith((".new", "-lock")):
            return  # of what is not there as a rule, or is in nobody's way
        # Our programs' own lines: the one that wakes is made anew within a second, and whoever waited for an answer asks again.
        if kind in ("connect", "send", "receive") and self.faults.about().endswith(".sock"):
            return
        thing = str(self.w.folder) if kind in FILES else ""
        if not any(thing in line for line in said):
            raise Failure(f"nothing was said of {self.faults.about()}{' with its path' if thing and said else ''}: {said}\n{self.w.tell()}")


class Series:
    """Many cases on one world; a case that fails costs its world, and is reported with the others at the end."""

    def __init__(self, make_world):
        self.make_world = make_world
        self.story = None
        self.done, self.reached, self.refused, self.failures = 0, 0, 0, []

    def fresh(self):
        if self.story:
            self.story.w.close()
        self.story = Story(self.make_world(spool={"segment_size": "1MiB", "max_size": "64MiB"})).begin()
        return self.story

    def run(self, what, one):
        story = self.story or self.fresh()
        self.done += 1
        try:
            one(story)
            self.reached += story.faults.state.failed > 0
            self.refused += story.faults.state.failed
        except (AssertionError, OSError, ValueError) as error:
            self.failures.append(f"== {what}: {story.faults.about()}\n{error}")
            print(f"FAILED {self.failures[-1]}", flush=True)
            story.faults.clear()
            self.fresh()

    def end(self, least):
        print(f"{self.done} cases, {self.reached} reached their fault, {len(self.failures)} failed")
        assert not self.failures, f"{len(self.failures)} of {self.done} cases failed\n" + "\n".join(self.failures[:5])
        assert self.reached >= self.done * least, f"only {self.reached} of {self.done} faults took place: the counts do not fit the story any more"


@pytest.fixture
def series(make_world):
    why = faults.missing()
    if why:
        pytest.skip(why)
    return Series(make_world)


def call_name(kind, error):
    return f"{kind} {'short' if error == SHORT else E.errorcode[error]}"


@pytest.mark.parametrize("group", range(GROUPS["calls"]))
@pytest.mark.parametrize("role", ROLES)
def test_calls_fail(series, request, seed, role, group):
    long = request.config.getoption("--long")
    if group > 0 and not long:
        pytest.skip("only with --long")
    rng = random.Random(f"{seed} {role}")
    story = series.fresh()
    before = story.faults.calls()
    story.case(role, story.faults.clear)
    after = story.faults.calls()
    cases = []
    for kind, errors in ERRORS.items():
        count = after[role, kind] - before[role, kind]
        for error in errors:
            places = rng.sample(range(1, count + 1), min(count, MOST_AT))
            cases += [(kind, error, at) for at in places]
    rng.shuffle(cases)
    # Each kind of call once by default: a plain sample would be sends and receives for the most part.
    chosen = cases if long else list({kind: (kind, error, at) for kind, error, at in cases}.values())[:CALLS]
    for kind, error, at in chosen[group::GROUPS["calls"] if long else 1]:
        times = rng.choice((1, 1, 2, 4))

        def one(story):
            said = story.case(role, lambda: story.faults.arm(role, kind, error, at, times))
            story.judge_call(kind, error, said)
        print(f"{role} {call_name(kind, error)} at {at}, {times} times", flush=True)
        series.run(f"{role}: {call_name(kind, error)} at call {at}, {times} times (seed {seed})", one)
    series.end(0.7)


@pytest.mark.parametrize("group", range(GROUPS["memory"]))
@pytest.mark.parametrize("role", ROLES)
def test_no_memory(series, request, seed, role, group):
    """Each place that allocates is refused once, with those that come after it or without. Silence is right where nothing is lost by it."""
    long = request.config.getoption("--long")
    if group > 0 and not long:
        pytest.skip("only with --long")
    rng = random.Random(f"{seed} {role}")
    story = series.fresh()
    story.case(role, lambda: story.faults.record_sites(role))
    sites = story.faults.sites()
    assert len(sites) > 100, f"only {len(sites)} places allocate: nothing was recorded"
    chosen = sites if long else rng.sample(sites, SITES)
    rng.shuffle(chosen)
    mine = chosen[group::GROUPS["memory"] if long else 1]
    for at in range(0, len(mine), TOGETHER):
        sites, times = mine[at:at + TOGETHER], rng.choice((1, 1, 3))
        print(f"{role} memory at {sites}, {times} times each", flush=True)
        series.run(f"{role}: no memory {times} times at {sites} (seed {seed})",
                   lambda story: story.case(role, lambda: story.faults.arm_sites(role, sites, times)))
    print(f"{series.refused} of {len(mine)} places were refused")
    series.end(0.7)
    assert series.refused >= len(mine) * 0.6, f"only {series.refused} of {len(mine)} places were reached again"


def test_first_start(make_world, request, seed):
    """The very first start, which makes directory, lock, first segments and slot."""
    why = faults.missing()
    if why:
        pytest.skip(why)
    rng = random.Random(seed)
    cases = [(kind, error, at) for kind, most in (("mkdir", 1), ("open", 24), ("write", 12), ("sync", 8), ("rename", 3), ("truncate", 3))
             for error in ERRORS[kind] for at in range(1, most + 1)]
    chosen = cases if request.config.getoption("--long") else cases[:1] + rng.sample(cases, 5)
    reached = 0
    for kind, error, at in chosen:
        print(f"first start: {call_name(kind, error)} at {at}", flush=True)
        story = Story(make_world(spool={"segment_size": "1MiB", "max_size": "64MiB"}))
        story.faults.arm("agent", kind, error, at, rng.choice((1, 2)))
        story.w.start()
        story.mark_logs()
        story.marks = dict.fromkeys(story.marks, 0)
        story.settle()
        story.judge_call(kind, error, faults.complaints(story.logs()) + story.told)
        reached += story.faults.state.failed > 0
        story.w.close()
    assert reached >= len(chosen) * 0.7, f"only {reached} of {len(chosen)} faults took place"


# ---- the real thing ------------------------------------------------------------------------------------------------------

PAD = "insert into t select i, (select string_agg(md5(i::text || random() || k), '') from generate_series(1, 30) k) from generate_series(%s, %s) i"


def fill(world, megabytes, start):
    for n in range(megabytes):
        world.src(PAD, start + n * 1000, start + n * 1000 + 999)
    return start + megabytes * 1000


def agent_state(world):
    route = world.route()
    return route["agent"] if route and route["agent"] else {"state": None, "reason": ""}


def test_file_system_is_full(make_world, own_servers):
    """The spool's own file system has no room left, long before max_size; also for what starts meanwhile."""
    target = own_servers()
    w = make_world(target=target, spool={"segment_size": "1MiB", "max_size": "1GiB"})
    why = faults.tmpfs(w.spool_dir, "12m")
    if why:
        pytest.skip(why)
    try:
        w.src("create table t(id int primary key, pad text); create table log(at int, line text); alter table log replica identity full")
        w.start()
        w.wait()
        target.stop("immediate")
        w.src("insert into log select 1, 'line' from generate_series(1, 50)")
        at = fill(w, 25, 0)

        def full():
            state = agent_state(w)
            return state["state"] == "spool_full" and state["reason"]
        reason = until("capture stops for want of room", full, 60, 0.2, w.tell)
        assert str(w.spool_dir) in reason and "No space left on device" in reason, reason
        (w.spool_dir / "ballast").write_bytes(b"")
        with open(w.spool_dir / "ballast", "wb", buffering=0) as ballast:  # the last page as well
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError as error:
                assert error.errno == E.ENOSPC
        # What starts on a full disk waits, or ends and says why; nothing of it crashes.
        story_exits = []
        for process, start in ((w.agent, w.start_agent), (w.applier, w.start_applier)):
            assert process.stop() == 0
            start()
        w.src("insert into log select 2, 'line' from generate_series(1, 50)")
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            for process, start in ((w.agent, w.start_agent), (w.applier, w.start_applier)):
                if not process.alive():
                    story_exits.append(process.popen.returncode)
                    assert process.popen.returncode == 74, f"ended with {process.popen.returncode}\n{process.tail()}"
                    time.sleep(0.5)
                    start()
                    break
            time.sleep(0.1)
        killed = [line for line in w.applier.text().splitlines() if "was killed by" in line]
        assert not killed, killed
        assert any("No space left on device" in line for line in faults.complaints(w.agent.text())), w.tell()
        (w.spool_dir / "ballast").unlink()
        faults.remount(w.spool_dir, "256m")
        target.start()

        def settled():
            if not w.agent.alive():
                w.start_agent()
            return w.cli("wait", "--route", "shop", "--timeout", 5).returncode == 0
        until("all is applied", settled, 120, 0.2, w.tell)
        w.assert_same("t", "log")
        fill(w, 2, at)
        w.wait()
        w.assert_same("t", "log")
    finally:
        for process in w.procs:
            process.end()
        faults.unmount(w.spool_dir)


def first_free(pid):
    """No descriptor can be made with this as the limit; those beyond it stay."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def test_descriptors_run_out(make_world):
    """RLIMIT_NOFILE of the running processes is lowered to what they have open."""
    if os.geteuid() != 0:
        pytest.skip("only root may see what processes that are not dumpable have open")
    why = faults.missing()
    if why:
        pytest.skip(why)
    story = Story(make_world(spool={"segment_size": "1MiB", "max_size": "64MiB"}, route={"name": "shop"}))
    w = story.begin().w
    route = int(until("the route's process", lambda: [line for line in w.applier.text().splitlines() if "event=route_started" in line])[-1].rsplit("pid=", 1)[1])
    story.mark_logs()
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in (w.agent.pid, w.applier.pid, route)}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free(pid), hard))
    w.src("update item set big = (select string_agg(md5(random()::text || i || id), '') from generate_series(1, 1500) i) where id > 240; "
          "insert into log select 5, 'line' from generate_series(1, 50)")
    asking = w.run_in_background("status")
    w.until_log(w.applier, "event=connection_not_taken")
    w.until_log(w.agent, "Too many open files")
    calls = story.faults.calls()["supervisor", "accept"]
    time.sleep(2)
    assert story.faults.calls()["supervisor", "accept"] - calls < 40, "the supervisor does not rest between its attempts"
    lines = len(story.logs().splitlines())
    assert lines < 200, f"{lines} lines of log in a few seconds"
    for pid, limits in before.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert asking.wait(30) == 0, "a command that waited is answered"
    story.settle()
    assert not story.exits, story.exits
