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
