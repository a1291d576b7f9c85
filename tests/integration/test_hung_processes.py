"""A process that is there and does nothing (SIGSTOP: a debugger, a disk that does not answer): commands end and say so."""

import os
import signal
import time

from links import NOTICED_S, SLACK_S
from world import until


def begun(make_world):
    w = make_world()
    w.src("create table t(id int primary key); insert into t values (1)")
    w.start()
    w.wait()
    return w


def goes_on(w, row):
    w.src(f"insert into t values ({row})")
    w.wait()
    w.assert_same("t")


def test_agent_hangs(make_world):
    w = begun(make_world)
    w.agent.signal(signal.SIGSTOP)
    w.src("insert into t values (2)")
    status = w.status()
    assert status["routes"][0]["agent"]["state"] == "silent", status
    told = [t for t in status["troubles"] if t["kind"] == "agent_silent"]
    assert len(told) == 1 and "did not answer within" in told[0]["text"], status
    until("lag rises, since nobody knows what the source holds", lambda: w.route()["lag_seconds"] > 1, 30, 0.2)
    done = w.cli("wait", "--route", w.name, "--timeout", 3, timeout=60)
    assert done.returncode == 75 and "The agent of source shop has not said in time" in done.stderr, (done.returncode, done.stderr)
    done = w.cli("status", check=0, timeout=30)
    assert "did not answer within" in done.stdout, done.stdout
    w.agent.signal(signal.SIGCONT)
    until("the agent speaks again", lambda: w.route()["agent"]["state"] == "streaming", 30, 0.2, w.tell)
    goes_on(w, 3)


def test_applier_hangs(make_world):
    w = begun(make_world)
    w.applier.signal(signal.SIGSTOP)
    for command in (["status"], ["pause", "--route", w.name], ["wait", "--route", w.name]):
        done = w.cli(*command, timeout=90)
        assert done.returncode == 75, (command, done.returncode, done.stdout, done.stderr)
        assert "SS-CLI-0007" in done.stderr and "hangs or is stopped" in done.stderr, done.stderr
    w.applier.signal(signal.SIGCONT)
    until("the applier answers again", w.status, 30, 0.2, w.tell)
    w.cli("resume", "--route", w.name, check=0)  # the pause was taken by the kernel's queue, and carried out now
    goes_on(w, 2)


def test_long_wait_is_not_taken_for_a_hang(make_world):
    """The command line asks the applier whether it turns, and goes on waiting."""
    w = begun(make_world)
    w.cli("pause", "--route", w.name, check=0)
    w.src("insert into t values (2)")
    began = time.monotonic()
    done = w.cli("wait", "--route", w.name, "--timeout", 20, timeout=90)
    assert done.returncode == 75 and "SS-CLI-0007" not in done.stderr, (done.returncode, done.stderr)
    assert time.monotonic() - began >= 19, "it did not wait: the test proves nothing"
    w.cli("resume", "--route", w.name, check=0)
    goes_on(w, 3)


def test_route_hangs(make_world):
    w = begun(make_world)
    pid = w.route()["pid"]
    os.kill(pid, signal.SIGSTOP)
    w.src("insert into t values (2)")
    route = until("status says that the route is silent", lambda: (lambda r: r["state"] == "waiting_target" and r)(w.route()),
                  NOTICED_S + SLACK_S, 0.25, w.tell)
    assert "no word from it for" in route["reason"], route
    os.kill(pid, signal.SIGCONT)
    w.until_state("streaming")
    goes_on(w, 3)
