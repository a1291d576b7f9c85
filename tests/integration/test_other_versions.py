"""PostgreSQL 10 to 17, beside the 15 and 18 of test_version_pairs.py: each as a source to a 15 and as a target of one. With --long (or when asked for by name)."""

import pytest

import torture
from servers import DEBIAN
from world import until

VERSIONS = [10, 11, 12, 13, 14, 16, 17]

SCHEMA = """
create type mood as enum ('ok', 'bad');
create table customer(id int generated always as identity primary key, name text not null unique, mood mood default 'ok');
create table ledger(id bigserial primary key, customer int references customer on delete cascade, paid daterange,
    constraint real check (customer > 0), exclude using gist (paid with &&));
create index recent on ledger(customer, id desc) where customer > 5;
create table line(at timestamptz default now(), what text);
alter table line replica identity full;
create view names as select name from customer where mood = 'ok';
create materialized view totals as select count(*) from ledger;
create statistics dependent on customer, id from ledger;
comment on column customer.name is 'as on the letter';
insert into customer(name) select 'c' || i from generate_series(1, 200) i;
insert into ledger(customer, paid) select i, daterange('2024-01-01'::date + i, '2024-01-02'::date + i) from generate_series(1, 200) i;
insert into line(what) select 'line' || i % 3 from generate_series(1, 100) i;
refresh materialized view totals;
"""
PARTS = """
create table part(id int not null, at date not null, v text{key}) partition by range (at);
create table part_1 partition of part for values from ('2023-01-01') to ('2024-01-01');
create table part_2 partition of part for values from ('2024-01-01') to ('2025-01-01');
{keys}
insert into part select i, '2023-06-01'::date + i, 'v' from generate_series(1, 400) i;
"""
LEAVES = ["part_1", "part_2"]
TABLES = ["customer", "ledger", "line", *LEAVES]
OLD_KEYS = "alter table part_1 add primary key (id, at); alter table part_2 add primary key (id, at);"  # 10 has none on the root


@pytest.fixture(params=[(v, DEBIAN) for v in VERSIONS] + [(DEBIAN, v) for v in VERSIONS], ids=lambda pair: "-to-".join(map(str, pair)))
def world(request, server_of, make_world):
    source, target = (server_of(version, role) for version, role in zip(request.param, ("source", "target")))
    return make_world(source=source, target=target)


def oldest(w):
    return min(w.source.major, w.target.major)


def schema_of(w):
    keys = {"key": "", "keys": OLD_KEYS} if oldest(w) < 11 else {"key": ", primary key (id, at)", "keys": ""}
    # Before 13 a publication names leaves anyway.
    publication = "create publication sidespool_shop for table customer, ledger, line, part with (publish_via_partition_root = false)"
    return SCHEMA + PARTS.format(**keys) + (publication if w.source.major >= 13 else "")


def test_check(world):
    w = world
    w.spool_dir.mkdir()
    w.src(schema_of(w))
    source = w.run("sidespool-postgres", "--config", w.agent_file, "--check", check=0)
    target = w.run("sidespool-applier", "--config", w.applier_file, "--check", check=0)
    assert f"version: PostgreSQL {w.source.major}." in source.stdout, source.stdout
    assert f"target version: PostgreSQL {w.target.major}." in target.stdout, target.stdout
    assert ("TRUNCATE" in source.stdout) == (w.source.major < 11), source.stdout


def test_types(world):
    w, types = world, torture.known(world.source.major, world.target.major)
    conn = w.source.connect(w.db)
    conn.cursor().execute(torture.create(types))
    torture.insert(conn.cursor(), 1, types)
    w.start()
    w.wait(120)
    torture.insert(conn.cursor(), 100, types)
    torture.change(conn.cursor(), types)
    w.wait(120)
    w.assert_same(*torture.tables(types))
    w.verify()


def test_story(world):
    w = world
    w.src(schema_of(w))
    w.start()
    w.wait()
    w.assert_same(*TABLES, "part", "names", "totals")
    assert w.route()["source_server"].startswith(f"PostgreSQL {w.source.major}."), w.route()
    w.src("""update customer set name = name || '!' where id % 3 = 0; delete from customer where id % 7 = 0;
        delete from line where ctid in (select ctid from line limit 10); update line set what = 'x' where what = 'line1';
        delete from part where id % 9 = 0; update part set v = 'w' where id % 5 = 0""")
    if w.source.major >= 11:
        w.src("truncate part_2; update part set at = '2024-05-05' where id = 2")
    w.agent.kill()
    w.src("insert into customer(name) select 'k' || i from generate_series(1, 300) i")
    w.start_agent()
    w.applier.kill()
    w.src("insert into line(what) values ('after'), ('after')")
    w.start_applier()
    w.wait()
    w.assert_same(*TABLES, "part")
    w.verify()
    w.src("alter table line add column extra int")
    w.src("insert into line(what, extra) values ('wide', 8)")
    w.until_state("halted")
    w.cli("resync", "--route", "shop", check=0)
    w.src("insert into line(what, extra) values ('wide', 9); insert into part values (5000, '2024-12-12', 'after')")
    w.wait()
    w.assert_same(*TABLES, "part")
    w.verify()


def test_a_lost_slot_is_a_gap(world):
    w = world
    w.src("create table t(id int primary key); insert into t values (1)")
    w.start()
    w.wait()
    w.agent.stop()
    slot = f"ss_{w.db}"
    until("the slot is free", lambda: not w.source.one("select active from pg_replication_slots where slot_name = %s", slot), 20, 0.1)
    w.source.sql("select pg_drop_replication_slot(%s)", slot)
    w.src("insert into t values (2)")
    w.start_agent()
    w.until_log(w.agent, "SS-PG-0041")
    assert w.dst("select count(*) from t") == [(1,)]
