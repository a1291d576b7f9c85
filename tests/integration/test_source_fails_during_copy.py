"""The source breaks in the middle of a copy: what was whole stays, the rest is copied again, and nothing is lost meanwhile."""

from world import until

TABLES = ["a1", "a2", "a3", "big"]
SCHEMA = "; ".join(f"create table {t}(id int primary key, v text)" for t in TABLES) + """;
insert into a1 select i, md5(i::text) from generate_series(1, 20000) i;
insert into a2 select i, md5(i::text) from generate_series(1, 20000) i;
insert into a3 select i, md5(i::text) from generate_series(1, 20000) i;
insert into big select i, repeat(md5(i::text), 10) from generate_series(1, 300000) i;
"""
# COPY (SELECT …) shows no relid in pg_stat_progress_copy: a reader is known by what it runs.
READERS = """from pg_stat_progress_copy p join pg_stat_activity a using (pid)
  where a.application_name = 'sidespool-shop' and a.query ~ 'ONLY public.big'"""


def until_in_the_middle(w):
    """Readers of `big` have sent rows, and have more to send."""
    until("readers in the middle of big", lambda: w.src(f"select 1 {READERS} and p.bytes_processed > 300000"), 60, 0.005, w.tell)


def generations(w):
    return dict(w.dst("select name, generation from sidespool.table_state"))


def test_readers_terminated_and_server_killed(make_world, own_servers):
    source = own_servers(fsync="on")
    w = make_world(source=source, agent={"copy": {"readers": 1}})  # table after table: the small ones are whole by then
    w.src(SCHEMA)
    w.start()

    until_in_the_middle(w)
    ended = w.src(f"select pg_terminate_backend(a.pid) {READERS}")
    assert ended
    w.until_log(w.agent, "event=copy_aborted")
    w.src("insert into a1 values (100001, 'meanwhile'); update big set v = 'meanwhile' where id % 1000 = 0; delete from big where id % 1001 = 0")

    # It goes on with what is not done; then the whole server dies in the middle.
    until_in_the_middle(w)
    source.kill()
    until("a second abort", lambda: w.agent.text().count("event=copy_aborted") >= 2, 60, 0.1, w.tell)
    source.start()
    w.src("insert into a2 values (100002, 'later'); insert into big values (1000000, 'later')")
    w.wait(120)
    w.assert_same(*TABLES)
    got = generations(w)
    assert got["a1"] == got["a2"] == got["a3"] == 1, f"tables that were whole were copied again: {got}"
    assert got["big"] >= 3, got
    for table in TABLES[:3]:
        assert w.applier.text().count(f"event=table_loaded route=shop source=shop table=public.{table} ") == 1, w.tell()
    w.src("update a1 set v = 'on' where id = 5; update big set v = 'on' where id = 5")
    w.wait()
    w.verify()
