"""Partitioned tables, by their root and by their leaves, and inheritance."""

import pytest

SCHEMA = """
create table part(id int, at date not null, v text, primary key (id, at)) partition by range (at);
create table part_2023 partition of part for values from ('2023-01-01') to ('2024-01-01');
create table part_2024 partition of part for values from ('2024-01-01') to ('2025-01-01') partition by list (id);
create table part_2024_a (v text, at date not null, id int not null);
alter table part_2024 attach partition part_2024_a for values in (1, 2, 3);
create table part_2024_rest partition of part_2024 default;
create table part_default partition of part default;
create table parent(id int primary key, v text);
create table child(extra int, primary key (id)) inherits (parent);
insert into part select i, date '2023-06-01' + i * 20, 'v' || i from generate_series(1, 60) i;
insert into parent values (1, 'p'); insert into child values (2, 'c', 3);
"""


@pytest.mark.parametrize("by", ["root", "leaf"])
def test_partitions(make_world, by):
    w = make_world()
    w.src(SCHEMA)
    if by == "leaf":
        w.src("create publication sidespool_shop for table part, parent, child with (publish_via_partition_root = false)")
    w.start()
    w.wait()
    w.assert_same("part", "only parent", "child")
    w.src("insert into part values (1, '2024-03-03', 'new'), (9, '2024-03-03', 'new'), (1, '2030-01-01', 'far')")
    w.src("update part set v = v || '!' where id % 2 = 0")
    w.src("update part set at = '2023-02-02' where at = '2024-03-03'")  # rows move between partitions
    w.src("delete from part where id % 7 = 0; insert into parent values (10, 'x'); update child set v = 'y'; update parent set v = v || 'z'")
    w.wait()
    w.assert_same("part", "only parent", "child", "part_2023", "part_2024_a", "part_default")
    w.src("truncate part_2023")
    w.wait()
    if by == "leaf":  # published by root, a leaf's TRUNCATE is not in the stream (PostgreSQL's documentation of the option)
        w.assert_same("part")
    w.verify(check=0 if by == "leaf" else 1)


TREE = """
create type mood as enum ('ok', 'bad');
create schema far;
create table ref(id int primary key);
insert into ref select generate_series(1, 10);
create table ev(id int not null, k int not null references ref, m mood default 'ok', primary key (id, k),
                constraint positive check (id > 0)) partition by list (k);
create index ev_m on ev(m);
comment on table ev is 'events';
create table ev_1 partition of ev for values in (1);
create table ev_2 partition of ev for values in (2) partition by range (id);
create table far.ev_2_low partition of ev_2 for values from (minvalue) to (100);
create table ev_2_high partition of ev_2 for values from (100) to (maxvalue);
create table ev_rest partition of ev default;
create table ev_secret partition of ev for values in (9);
create table child(ev_id int, ev_k int, foreign key (ev_id, ev_k) references ev);
alter table child replica identity full;
create view ev_bad as select * from ev where m = 'bad';
insert into ev select i, 1 + i % 5, case when i % 3 = 0 then 'bad' else 'ok' end::mood from generate_series(1, 300) i;
insert into ev values (1, 9);
insert into child select id, k from ev where k < 5 limit 50;
create publication sidespool_shop for table ev, ref, child with (publish_via_partition_root = false);
"""
LEAVES = ["ev_1", "far.ev_2_low", "ev_2_high", "ev_rest"]
SHAPE = """select c.relname, pg_get_expr(c.relpartbound, c.oid), (select relname from pg_class where oid = i.inhparent),
  (select string_agg(pg_get_indexdef(x.indexrelid) || x.indisvalid, ';' order by x.indexrelid::regclass::text)
   from pg_index x where x.indrelid = c.oid),
  (select string_agg(conname || pg_get_constraintdef(k.oid), ';' order by conname) from pg_constraint k
   where k.conrelid = c.oid and contype <> 'f')
  from pg_class c left join pg_inherits i on i.inhrelid = c.oid
  where c.relname ~ '^ev' and c.relname <> 'ev_secret' and c.relkind in ('r', 'p') order by 1"""


def test_the_tree_is_rebuilt_of_the_leaves_that_are_selected(make_world):
    w = make_world(tables={"exclude": ["public.ev_secret"]})
    w.src(TREE)
    w.start()
    w.wait()
    w.assert_same(*LEAVES, "child")
    w.until_log(w.applier, "is rebuilt without 1 of its partitions")
    everything = "select count(*), sum(id) from ev where k <> 9"
    assert w.dst(everything.replace(" where k <> 9", "")) == w.src(everything)
    assert w.dst(SHAPE) == w.src(SHAPE)
    assert w.dst("select count(*) from ev_bad") == w.src("select count(*) from ev_bad")
    assert w.dst("select count(*) from pg_constraint where contype = 'f' and conparentid = 0") == [(2,)]
    assert w.dst("select obj_description('ev'::regclass)") == [("events",)]

    # A resync of one leaf leaves the tree as it is, and is seen through it.
    w.dst("set session_replication_role = replica; delete from ev_1 where id < 50")
    w.cli("resync", "--route", "shop", "public.ev_1", check=0)
    w.src("update ev set m = 'bad' where id < 20; update ev set k = 2 where k = 1 and id > 250")
    w.wait()
    w.assert_same(*LEAVES)
    assert w.dst("select count(*), sum(id) from ev") == w.src(everything)
    assert w.dst(SHAPE) == w.src(SHAPE)
    generations = dict(w.dst("select name, generation from sidespool.table_state"))
    assert generations["ev_1"] > generations["ev_rest"]
    w.verify()


def test_a_tree_whose_columns_changed_is_made_anew(make_world):
    """A leaf put in place as another table takes its place in the tree; the tree follows when all leaves have."""
    w = make_world()
    w.src(TREE)
    w.src("drop view ev_bad; alter table child drop constraint child_ev_id_ev_k_fkey")
    w.start()
    w.wait()
    w.agent.stop()
    w.src("alter table ev add column extra int default 7; insert into ev values (1000, 3)")
    w.start_agent()
    w.until_state("halted")
    w.cli("resync", "--route", "shop", check=0)
    w.wait()
    w.assert_same(*LEAVES, "ev_secret", "ev", "child")
    assert w.dst(SHAPE) == w.src(SHAPE)
    w.src("insert into ev values (1001, 1), (1002, 2)")
    w.wait()
    w.assert_same("ev")


IDENTITIES = """
create table part(id int not null, v text, w text) partition by range (id);
create table low partition of part for values from (minvalue) to (100);
create table high partition of part for values from (100) to (maxvalue);
alter table part replica identity full; alter table low replica identity full; alter table high replica identity full;
create unique index low_id on low(id); create unique index high_id on high(id);
create table other(id int primary key);
insert into part select i, 'v', 'w' from generate_series(1, 200) i;
"""


@pytest.mark.parametrize("change", ["alter table low replica identity using index low_id",
                                    "alter table low replica identity using index low_id; alter table part replica identity full"])
def test_a_partition_that_gets_another_identity_stops_the_agent(make_world, change):
    """An old row that holds the key alone would else be taken for a whole one, with NULLs."""
    w = make_world()
    w.src(IDENTITIES)
    w.start()
    w.wait()
    w.src("update part set v = 'x' where id % 10 = 0; delete from part where id = 150")
    w.wait()
    w.assert_same("part")
    before = w.dst("select count(*), sum(id) from part")
    w.src(change)
    w.src("insert into other values (1); update part set v = 'y' where id = 150; delete from part where id = 5")
    w.until_log(w.agent, "code=SS-PG-0017")
    assert "partition public.low identifies its rows by id" in w.agent.text()
    assert w.dst("select count(*), sum(id) from part") == before


def test_a_root_whose_identity_grows_stops_the_agent(make_world):
    w = make_world()
    w.src("create table part(id int primary key, v text) partition by range (id);"
          "create table low partition of part for values from (minvalue) to (100);"
          "create table high partition of part for values from (100) to (maxvalue);"
          "insert into part select i, 'v' from generate_series(1, 200) i")
    w.start()
    w.wait()
    w.src("update part set v = 'x' where id % 10 = 0; delete from part where id = 150")
    w.wait()
    w.assert_same("part")
    w.src("alter table part replica identity full")
    w.src("delete from part where id = 5")
    w.until_log(w.agent, "code=SS-PG-0017")
    assert w.dst("select count(*) from part where id = 5") == [(1,)]


def test_partitions_may_log_more_than_their_root(make_world):
    w = make_world()
    w.src("create table part(id int primary key, v text) partition by range (id);"
          "create table low (v text, id int primary key); alter table part attach partition low for values from (minvalue) to (100);"
          "create table high partition of part for values from (100) to (maxvalue);"
          "insert into part select i, 'v' from generate_series(1, 200) i")
    w.start()
    w.wait()
    w.src("alter table low replica identity full")
    w.src("update part set v = null where id % 10 = 0; update part set id = 300 where id = 7; delete from part where id in (5, 150)")
    w.wait()
    w.assert_same("part")
