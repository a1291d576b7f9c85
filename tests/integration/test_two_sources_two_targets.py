"""Two agents, two sources, two targets, one applier: each route has its own, and one that is paused holds up no other."""

import json



def test_side_by_side(make_world, own_servers):
    target2 = own_servers()
    one = make_world()
    two = make_world(name="crm", target=target2, spool={"path": str(one.spool_dir)})
    conf = json.loads(one.applier_file.read_text())
    conf["routes"].append({"source": "crm", "name": "crm", "target": {"postgres": {"dsn": target2.dsn(two.db)}}})
    one.applier_file.write_text(json.dumps(conf))
    one.src("create table t(id int primary key, v text); insert into t values (1, 'shop')")
    two.src("create table t(id int primary key, v text); insert into t values (1, 'crm'), (2, 'crm')")
    one.start_agent()
    one.spool_dir.mkdir(exist_ok=True)
    two.start_agent()
    one.start_applier()
    one.wait()
    one.cli("wait", "--route", "crm", "--timeout", 60, check=0)
    one.cli("pause", "--route", "crm", check=0)
    one.src("insert into t select i, 'shop' from generate_series(2, 500) i")
    two.src("insert into t select i, 'crm' from generate_series(3, 700) i; delete from t where id = 1")
    one.wait()
    one.assert_same("t")
    assert two.dst("select count(*) from t") == [(2,)]
    one.cli("resume", "--route", "crm", check=0)
    one.cli("wait", "--route", "crm", "--timeout", 60, check=0)
    two.assert_same("t")
    one.assert_same("t")
    for name in ("shop", "crm"):
        one.cli("verify", "--route", name, check=0)
    status = one.status()
    assert {r["route"]: r["state"] for r in status["routes"]} == {"shop": "streaming", "crm": "streaming"}
