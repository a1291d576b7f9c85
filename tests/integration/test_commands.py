"""status, wait, pause, resume, replay, explain, spool: what they print and the codes they end with."""

import json
import os
import time

from world import until


def test_exit_codes_without_daemons(make_world):
    w = make_world()
    for command in (("status",), ("wait", "--route", "shop"), ("pause", "--route", "shop"), ("verify", "--route", "shop")):
        done = w.cli(*command)
        assert done.returncode == 69 and "sidespool-applier" in done.stderr, (command, done)
    assert w.run("sidespool", "nonsense").returncode == 2
    assert w.run("sidespool", "explain", "SS-NOPE-0001").returncode == 1
    done = w.run("sidespool", "explain", "SS-SPOOL-0001")
    assert done.returncode == 0 and len(done.stdout) > 40


def test_wait_without_agent_and_in_time(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    w.agent.stop()
    assert w.cli("wait", "--route", "shop", "--timeout", 5).returncode == 69
    w.start_agent()
    w.wait()
    w.cli("pause", "--route", "shop", check=0)
    w.src("insert into t values (1)")
    assert w.cli("wait", "--route", "shop", "--timeout", 2).returncode == 75
    assert w.cli("wait", "--route", "nobody").returncode == 2


def test_wait_means_all_that_was_committed(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    for n in range(40):
        w.src("insert into t values (%s)", n)
        w.cli("wait", "--route", "shop", "--timeout", 20, check=0)
        assert w.dst("select max(id) from t") == [(n,)]
    # With nothing written for a while, on a quiet source, and with asynchronous commit.
    time.sleep(3)
    w.cli("wait", "--route", "shop", "--timeout", 20, check=0)
    w.src("set synchronous_commit = off; insert into t values (1000)")
    w.cli("wait", "--route", "shop", "--timeout", 20, check=0)
    assert w.dst("select max(id) from t") == [(1000,)]


def test_an_idle_copy_rests(make_world):
    w = make_world()
    w.src("create table t(id int primary key); insert into t values (1)")
    w.start()
    w.wait()
    until("nothing waits", lambda: w.route()["behind_records"] == 0 and w.route()["lag_seconds"] == 0, 20, 0.3, w.tell)
    rested = 0
    for _ in range(12):  # signs of life go on
        time.sleep(0.4)
        route = w.route()
        rests = route["behind_records"] == 0 and route["lag_seconds"] == 0
        # A sign of life that the route has seen since the agent was asked is not known to be one yet.
        assert rests or route["committed"] > route["agent"]["committed"], route
        rested += rests
    assert rested >= 8, f"an idle copy rested only {rested} of 12 times"


def test_verify_of_a_halted_route_says_what_to_do(make_world):
    w = make_world()
    w.src("create table t(id int primary key, v text); insert into t values (1, 'a')")
    w.start()
    w.wait()
    w.dst("delete from t")
    w.src("update t set v = 'b'")
    w.until_state("halted")
    done = w.cli("verify", "--route", "shop")
    assert done.returncode == 1 and "halted" in done.stderr, done
    text = w.cli("status", check=0).stdout
    assert "sidespool resync --route shop public.t" in text and "--config" in text and "--table" not in text, text
    w.cli("resync", "--route", "shop", "public.t", check=0)
    w.wait()
    done = w.cli("verify", "--route", "shop", check=0)
    assert "1 table is equal" in done.stdout


def test_forgetting_nobody(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    done = w.run("sidespool", "spool", "forget", "--consumer", "nobody", "--yes", "--spool", w.spool_dir)
    assert done.returncode == 1 and "nobody" in done.stderr
    done = w.run("sidespool", "spool", "forget", "--consumer", "shop", "--config", w.applier_file)
    assert done.returncode == 2 and "still configured" in done.stdout, done


def test_wait_for_a_halted_agent_ends(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    w.agent.stop()
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database() and not active"
    until("the slot is dropped", lambda: w.src(drop), 20, 0.3, w.tell)
    w.start_agent()
    until("the agent halts", lambda: w.route()["agent"]["state"] == "halted", 20, 0.3, w.tell)
    done = w.cli("wait", "--route", "shop", "--timeout", 20)
    assert done.returncode == 1 and "is halted" in done.stderr and "on_gap" in done.stderr, done
    text = w.cli("status", check=0).stdout
    assert "no news" in text and "systemctl restart sidespool-postgres@shop" in text and text.count("\n! ") == 1, text


def test_pause_and_resume(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    for _ in range(2):  # a command for a state already reached succeeds
        w.cli("pause", "--route", "shop", check=0)
    w.until_state("paused")
    w.src("insert into t select generate_series(1, 100)")
    until("what waits is counted", lambda: w.route()["behind_records"] >= 100, 20, 0.2, w.tell)
    assert w.dst("select count(*) from t") == [(0,)]
    until("lag rises", lambda: w.route()["lag_seconds"] > 1, 20, 0.3, w.tell)
    for _ in range(2):
        w.cli("resume", "--route", "shop", check=0)
    w.wait()
    w.assert_same("t")
    until("lag is zero when nothing waits", lambda: w.route()["lag_seconds"] == 0, 20, 0.3, w.tell)


def test_status_table(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    text = w.cli("status", check=0).stdout
    for word in ("ROUTE", "STATE", "TABLES", "LAG", "AS-OF", "BEHIND", "RATE", "ETA", "shop", "streaming"):
        assert word in text, text
    json.loads(w.cli("status", "--json", check=0).stdout)


def test_freshness_for_analysts(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    w.src("insert into t values (1)")
    w.wait()
    (route, as_of, state), = w.dst("select route, as_of, state from sidespool.freshness")
    assert route == "shop" and state == "streaming" and as_of is not None
    until("freshness moves on a quiet source", lambda: w.dst("select as_of from sidespool.freshness")[0][0] > as_of, 40, 0.5, w.tell)


def test_spool_commands(make_world):
    w = make_world(spool={"retain": "1h"})
    w.src("create table t(id int primary key, v text)")
    w.start()
    w.wait()
    w.src("insert into t values (7, 'seven'); update t set v = 'sieben' where id = 7; delete from t where id = 7")
    w.wait()
    spool = ("--spool", w.spool_dir, "shop")
    assert "stream" in w.run("sidespool", "spool", "ls", *spool, check=0).stdout
    w.run("sidespool", "spool", "verify", *spool, check=0)
    lines = [json.loads(line) for line in w.run("sidespool", "spool", "dump", *spool, check=0).stdout.splitlines()]
    changes = [line for line in lines if line.get("kind") == "change" or "change" in line]
    assert len(changes) == 3, lines[-10:]
    text = json.dumps(changes)
    assert "seven" in text and "sieben" in text
    sequences = [line["sequence"] for line in lines if line.get("log", "stream") == "stream"]
    assert sequences == sorted(sequences)
    w.agent.stop()
    path = sorted((w.spool_dir / "shop").glob("stream-*.mdb"))[0]
    with open(path, "r+b") as f:
        data = f.read()
        at = -1
        while (at := data.find(b"(\xb5/\xfd", at + 1)) >= 0:  # zstd's magic number: a frame's payload; LMDB keeps older pages too
            f.seek(at + 20)
            f.write(bytes([data[at + 20] ^ 0xFF]))
    done = w.run("sidespool", "spool", "verify", *spool)
    assert done.returncode == 1 and path.name in done.stdout + done.stderr


def test_one_bad_route_hurts_no_other(make_world, own_servers):
    target2 = own_servers()
    w = make_world()
    target2.sql(f"create database {w.db}")
    conf = json.loads(w.applier_file.read_text())
    conf["routes"].append({"source": "shop", "name": "second", "target": {"postgres": {"dsn": target2.dsn(w.db)}}})
    w.applier_file.write_text(json.dumps(conf))
    w.src("create table t(id int primary key, v text)")
    w.start()
    w.wait()
    w.cli("wait", "--route", "second", "--timeout", 30, check=0)
    w.dst("insert into t values (1, 'in the way')")
    w.src("insert into t values (1, 'a')")
    w.until_state("halted")
    w.src("insert into t values (2, 'b')")
    w.cli("wait", "--route", "second", "--timeout", 30, check=0)
    assert target2.sql("select count(*) from t", dbname=w.db) == [(2,)]
    pids = [int(p) for p in os.listdir("/proc") if p.isdigit() and "--route" in (lambda f: f.read() if f else "")(_open(p))]
    assert pids


def _open(pid):
    try:
        return open(f"/proc/{pid}/cmdline")
    except OSError:
        return None
