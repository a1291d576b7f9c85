"""The clock jumps by an hour, forwards and back: of our programs' host, or of the source's. Nothing stalls, dies, or lies about lag."""

import os
import pathlib
import socket
import subprocess
import time

import pytest

from servers import Postgres
from world import until


def library():
    listed = subprocess.run(["dpkg", "-L", "libfaketime"], capture_output=True, text=True).stdout.split()
    return next((path for path in listed if path.endswith("libfaketimeMT.so.1")), None)


class Clock:
    """The offset that processes with env() see on their wall clock; the monotonic clock is left alone, as a real step does."""

    def __init__(self, folder):
        self.file = folder / "clock"
        self.step(0)
        self.file.chmod(0o644)

    def step(self, seconds):
        made = self.file.with_suffix(".new")
        made.write_text(f"{seconds:+d}s\n")
        made.chmod(0o644)
        made.rename(self.file)

    def env(self):
        return {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture
def clock(folder):
    if not library():
        pytest.skip("libfaketime is not installed")
    if "asan" in os.environ.get("SIDESPOOL_BIN", "") or "tsan" in os.environ.get("SIDESPOOL_BIN", ""):
        pytest.skip("a sanitizer's runtime must be loaded first, and so must libfaketime")
    made = folder / f"clock-{os.getpid()}-{time.monotonic_ns()}"
    made.mkdir(mode=0o755)
    return Clock(made)


class Watchdog:
    """What systemd would hear. A unit that stays silent for WATCHDOG_USEC is killed."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(0.1)
        self.env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"}

    def silence(self, seconds):
        """The longest pause between two signs of life within so many seconds."""
        last = began = time.monotonic()
        longest = 0.0
        while time.monotonic() - began < seconds:
            try:
                if b"WATCHDOG=1" in self.socket.recv(4096):
                    last = time.monotonic()
            except TimeoutError:
                pass
            longest = max(longest, time.monotonic() - last)
        return longest


TABLES = "create table t(id int primary key, at timestamptz default clock_timestamp()); insert into t select i from generate_series(1, 50) i"


def grows(w, first):
    """Changes still arrive, are told as arrived, and lag is a duration."""
    w.src("insert into t select i from generate_series(%s, %s) i", first, first + 99)
    w.wait()
    w.assert_same("t")
    route = until("the route at rest", lambda: (lambda r: r if r and r["state"] == "streaming" and r["behind_records"] == 0 else None)(w.route()),
                  30, 0.1, lambda: f"{w.status()}\n{w.tell()}")
    assert route["lag_seconds"] is None or route["lag_seconds"] >= 0, route
    return route


def test_clock_of_our_programs(make_world, clock, folder):
    w = make_world(spool={"retain": "10m"})
    w.env = clock.env()
    w.src(TABLES)
    dog = Watchdog(clock.file.parent / "notify")
    w.start_agent(env=dog.env)
    w.start_applier()
    w.wait()
    began = 1000
    for step in (3600, -3600, 0, -3600, 3600):
        clock.step(step)
        silent = dog.silence(2.5)
        assert silent < 2.5, f"no sign of life after a step to {step} s"
        grows(w, began)
        began += 100
    assert w.agent.alive() and w.applier.alive()
    assert w.applier.text().count("event=route_started") == 1, "a route was started anew"
    assert "level=error" not in w.agent.text() + w.applier.text()
    # Across a restart as well: what was written in the future is not taken for something newer.
    for env in (w.env, {}):
        for process in (w.agent, w.applier):
            process.stop()
        clock.step(-3600)
        w.env = env
        w.start()
        grows(w, began)
        began += 100
    # Not under libfaketime 0.9.10, which lets a wait of ours end at once where it has a limit by the monotonic clock.
    w.verify()


@pytest.fixture
def stepped_server(folder, clock):
    pg = Postgres(folder / f"{clock.file.parent.name}-server")
    pg.env.update(clock.env())
    yield pg.start()
    pg.remove()


def test_clock_of_the_source(make_world, stepped_server, clock):
    source = stepped_server
    w = make_world(source=source)
    w.src(TABLES)
    w.start()
    w.wait()
    for turn, step in enumerate((3600, -3600, 0)):
        clock.step(step)
        there = w.source.one("select extract(epoch from clock_timestamp())")
        assert abs(float(there) - time.time() - step) < 60, "the source's clock was not stepped"
        grows(w, 1000 * (turn + 1))
    assert "level=error" not in w.agent.text() + w.applier.text()
