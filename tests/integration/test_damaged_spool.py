"""A spool file damaged under a running route stops that route, with the file's name; the route beside it goes on."""

import json
import os

import pytest

from world import until


def flip_frames(path):
    """A byte in every page behind the first few: whatever frame is read next is damaged."""
    with open(path, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for at in range(8 * 4096 + 2000, size, 4096):
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 0x20]), at)


def cut_short(path):
    """Beyond the end of a mapped file lies SIGBUS."""
    os.truncate(path, 8192)


@pytest.mark.parametrize("damage", [flip_frames, cut_short])
def test_one_route_stops(make_world, damage):
    one = make_world()
    two = make_world(name="crm", spool={"path": str(one.spool_dir)})
    conf = json.loads(one.applier_file.read_text())
    conf["routes"].append({"source": "crm", "name": "crm", "target": {"postgres": {"dsn": two.target.dsn(two.db)}}})
    one.applier_file.write_text(json.dumps(conf))
    for world in (one, two):
        world.src("create table t(id int primary key, v text); insert into t values (1, 'first')")
    one.start_agent()
    two.start_agent()
    one.start_applier()
    one.wait()
    one.cli("wait", "--route", "crm", "--timeout", 60, check=0)

    # What the route has not read yet is damaged, while it rests.
    one.cli("pause", "--route", "crm", check=0)
    two.src("insert into t select i, md5(i::text) from generate_series(2, 20000) i")
    end = two.source.one("select pg_current_wal_insert_lsn()::text")
    until("the changes in the spool", lambda: two.source.one(
        "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s", end, f"ss_{two.db}"))
    two.agent.kill()  # nothing is written any more: the newest segment stays what it is
    path = sorted((one.spool_dir / "crm").glob("stream-*.mdb"))[-1]
    damage(path)
    one.cli("resume", "--route", "crm", check=0)

    def stopped():
        status = one.status()
        crm = next((r for r in status["routes"] if r["route"] == "crm"), None) if status else None
        return crm if crm and crm["state"] != "streaming" and path.name in (crm["reason"] or "") else None

    route = until(f"the route's trouble with {path.name}", stopped, 60, 0.2, lambda: f"{one.status()}\n{one.tell()}")
    assert route["state"] == "halted", route
    assert two.dst("select count(*) from t") == [(1,)]  # nothing of a damaged frame, and nothing half

    one.src("insert into t select i, 'still' from generate_series(2, 500) i")
    one.wait()
    one.assert_same("t")
    states = {r["route"]: r["state"] for r in one.status()["routes"]}
    assert states["shop"] == "streaming" and states["crm"] == "halted", states

    done = one.run("sidespool", "spool", "verify", "--spool", one.spool_dir, "crm")
    assert done.returncode == 1 and path.name in done.stdout, done
    assert one.run("sidespool", "spool", "verify", "--spool", one.spool_dir, "shop").returncode == 0
    if damage is cut_short:  # an agent refuses what it cannot write behind: it halts and says why
        agent = two.start_agent()
        two.until_log(agent, "state=halted")
        assert path.name in agent.text()
