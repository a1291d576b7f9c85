"""--check names every precondition with its remedy; wrong files and unknown or not yet supported keys are refused with 78."""

import json

import pytest

from world import until


def check(w):
    return w.run("sidespool-postgres", "--config", w.agent_file, "--check")


def test_all_is_well(make_world):
    w = make_world()
    w.spool_dir.mkdir()
    w.src("create table t(id int primary key)")
    done = check(w)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("wal_level", "slot", "sender", "publication", "max_slot_wal_keep_size", "synchronous_standby_names", "clock", "spool", "version"):
        assert word in done.stdout, f"{word} not named in\n{done.stdout}"
    assert w.source.one("select count(*) from pg_publication", dbname=w.db) == 0, "--check makes nothing"


def test_table_without_identity(make_world):
    w = make_world()
    w.spool_dir.mkdir()
    w.src("create table nokey(a int); create table t(id int primary key)")
    done = check(w)
    assert done.returncode == 78 and "public.nokey" in done.stdout and "replica identity full" in done.stdout.lower()
    # The running agent does not publish it either: its source would refuse UPDATE.
    w.start_agent()
    w.until_log(w.agent, "public.nokey")
    w.src("insert into nokey values (1); update nokey set a = 2")
    w.src("alter table nokey replica identity full")
    assert check(w).returncode == 0


def test_wal_level_and_rights(make_world, own_servers):
    source = own_servers(wal_level="replica")
    w = make_world(source=source)
    w.spool_dir.mkdir()
    w.src("create table t(id int primary key); create role weak login; grant select on t to weak")
    done = check(w)
    assert done.returncode == 78 and "wal_level" in done.stdout and "logical" in done.stdout
    agent = json.loads(w.agent_file.read_text())
    agent["postgres"]["dsn"] = source.dsn(w.db, user="weak")
    w.agent_file.write_text(json.dumps(agent))
    done = check(w)
    assert done.returncode == 78 and "REPLICATION" in done.stdout
    assert "owner" in done.stdout.lower() and "publication" in done.stdout.lower(), done.stdout


def test_unreachable(make_world):
    w = make_world()
    w.spool_dir.mkdir()
    agent = json.loads(w.agent_file.read_text())
    agent["postgres"]["dsn"] = "host=127.0.0.1 port=1 dbname=x user=y password=hunter2"
    w.agent_file.write_text(json.dumps(agent))
    done = check(w)
    assert done.returncode == 78 and "refused" in done.stdout and "hunter2" not in done.stdout + done.stderr


def test_mistyped_dsn_of_a_target_shows_no_password(make_world):
    w = make_world()
    applier = json.loads(w.applier_file.read_text())
    applier["routes"][0]["target"]["postgres"]["dsn"] = "host=127.0.0.1 user=u password='hunter2"
    w.applier_file.write_text(json.dumps(applier, indent=1) + "\n")
    for args in ((), ("--check",)):
        done = w.run("sidespool-applier", "--config", w.applier_file, *args)
        assert done.returncode == 78 and "`postgres.dsn` cannot be parsed" in done.stdout + done.stderr, done
        assert "applier.yaml:" in done.stdout + done.stderr and "hunter2" not in done.stdout + done.stderr, done


def test_pattern_that_matches_nothing(make_world):
    w = make_world(tables={"include": ["public.t", "public.nothere*"]})
    w.spool_dir.mkdir()
    w.src("create table t(id int primary key)")
    done = check(w)
    assert done.returncode == 78 and "public.nothere*" in done.stdout + done.stderr


@pytest.mark.parametrize("key, value", [("mask", {"key_file": "x", "rules": []}), ("columns", {}), ("where", {}), ("ship", {"to": "x"})])
def test_agent_keys_not_supported_yet(make_world, key, value):
    w = make_world(agent={key: value})
    w.spool_dir.mkdir()
    done = w.run("sidespool-postgres", "--config", w.agent_file)
    assert done.returncode == 78 and "not supported yet" in done.stderr and key in done.stderr and "agent.yaml:" in done.stderr


@pytest.mark.parametrize("key, value", [("rename", {}), ("ddl", {}), ("quarantine", True)])
def test_route_keys_not_supported_yet(make_world, key, value):
    w = make_world(route={key: value})
    done = w.run("sidespool-applier", "--config", w.applier_file)
    assert done.returncode == 78 and "not supported yet" in done.stderr and key in done.stderr


@pytest.mark.parametrize("key, value", [("http", {"listen": "x"}), ("receive", {"listen": "x"})])
def test_applier_keys_not_supported_yet(make_world, key, value):
    w = make_world(applier={key: value})
    done = w.run("sidespool-applier", "--config", w.applier_file)
    assert done.returncode == 78 and "not supported yet" in done.stderr and key in done.stderr


def test_unknown_key(make_world):
    w = make_world()
    w.agent_file.write_text("source: shop\npostgres:\n  dsn: x\n  publicaton: y\nspool: {path: /tmp, max_size: 1GiB}\n")
    done = w.run("sidespool-postgres", "--config", w.agent_file)
    assert done.returncode == 78 and ":4:3" in done.stderr and "publicaton" in done.stderr and "publication" in done.stderr


def test_second_agent_on_one_spool(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    done = w.run("sidespool-postgres", "--config", w.agent_file, timeout=30)
    assert done.returncode in (75, 77, 78) and "lock" in done.stderr, done
    w.src("insert into t values (1)")
    w.wait()
    w.assert_same("t")


def test_check_names_a_gap_before_a_start_does(make_world):
    w = make_world()
    w.src("create table t(id int primary key); create table skipped_not(id int primary key)")
    w.start()
    w.wait()
    done = check(w)
    assert done.returncode == 0 and "public.skipped_not" in done.stdout, done.stdout
    w.agent.stop()
    slot = w.src("select slot_name from pg_replication_slots where database = current_database()")[0][0]
    until_free = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
    until("the slot is dropped", lambda: w.src(until_free, slot), 20, 0.3, w.tell)
    done = check(w)
    assert done.returncode == 78, done.stdout
    assert "SS-PG-0041" in done.stdout and "will be made" not in done.stdout and "on_gap: resync" in done.stdout, done.stdout


def test_sizes_that_do_not_fit(make_world):
    w = make_world(spool={"max_size": "64MiB"})  # the default segment size gives way
    w.src("create table t(id int primary key)")
    done = check(w)
    assert done.returncode == 0, done.stdout + done.stderr
    w = make_world(spool={"max_size": "64MiB", "segment_size": "32MiB"})
    done = check(w)
    assert done.returncode == 78 and "FAIL  configuration: " in done.stdout and "agent.yaml:" in done.stdout, done.stdout
    assert "spool.segment_size" in done.stdout and "(64MiB)" in done.stdout, done.stdout


def test_a_check_tries_nothing_again(make_world):
    w = make_world()
    w.spool_dir.mkdir()
    applier = json.loads(w.applier_file.read_text())
    applier["routes"][0]["target"]["postgres"]["dsn"] = "host=127.0.0.1 port=1 dbname=x user=y"
    w.applier_file.write_text(json.dumps(applier))
    done = w.run("sidespool-applier", "--config", w.applier_file, "--check")
    assert done.returncode == 78 and "FAIL  shop: target reachable" in done.stdout and "tried again" not in done.stdout, done.stdout
