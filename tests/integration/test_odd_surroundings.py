"""Settings, triggers and quiet hours of the servers around us change nothing in what is copied."""

import torture
from world import until

# Each of these changes how values are written or read as text, or what fires.
SETTINGS = ("datestyle = 'German, DMY'", "intervalstyle = 'sql_standard'", "bytea_output = 'escape'", "timezone = 'Asia/Kathmandu'",
            "extra_float_digits = -5", "xmloption = 'document'", "standard_conforming_strings = off", "search_path = nowhere",
            "default_transaction_isolation = 'serializable'", "statement_timeout = '3s'", "idle_in_transaction_session_timeout = '2s'",
            "row_security = on", "array_nulls = off", "transform_null_equals = on", "quote_all_identifiers = on",
            "default_transaction_deferrable = on")


def test_session_settings_of_the_databases(make_world):
    w = make_world()
    conn = w.source.connect(w.db)
    conn.cursor().execute(torture.create())
    torture.insert(conn.cursor(), 1)
    for server in (w.source, w.target):
        for setting in SETTINGS:
            server.sql(f"alter database {w.db} set {setting}")
    w.start()
    w.wait(120)
    torture.insert(conn.cursor(), 100)
    torture.change(conn.cursor())
    w.wait(120)
    for server in (w.source, w.target):
        server.sql(f"alter database {w.db} reset all")
    w.assert_same(*torture.tables())
    w.verify()


def test_triggers_rules_and_keys_of_the_target_do_not_fire(make_world):
    w = make_world()
    w.src("create table p(id int primary key, v text); create table c(id int primary key, p int references p on delete cascade);"
          "insert into p select i, 'v' from generate_series(1, 10) i; insert into c select i, i from generate_series(1, 10) i")
    w.start()
    w.wait()
    w.dst("create function no() returns trigger language plpgsql as 'begin raise exception ''fired''; end';"
          "create trigger t before insert or update or delete on p for each row execute function no();"
          "create rule r as on update to c do instead nothing")
    w.src("insert into p values (11, 'new'); update p set v = 'x' where id < 5; delete from p where id = 3; update c set p = 11 where id = 7; delete from p where id = 8")
    w.wait()
    w.assert_same("p", "c")


def test_quiet_database_releases_wal_of_its_neighbours(make_world):
    w = make_world()
    w.src("create table t(id int primary key)")
    w.start()
    w.wait()
    w.source.sql("create table if not exists noise(v text)")
    slot = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
    for _ in range(2):
        w.source.sql("insert into noise select repeat('x', 100) from generate_series(1, 20000)")
        lsn = w.source.one("select pg_current_wal_lsn()")
        until("the slot passes what another database wrote", lambda: w.source.one(slot, lsn, f"ss_{w.db}"), 60, 0.5, w.tell)


def test_slot_that_lost_its_wal_is_final(make_world, own_servers):
    source = own_servers(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB")
    w = make_world(source=source)
    w.src("create table t(id int primary key, v text); insert into t values (1, 'a')")
    w.start()
    w.wait()
    w.agent.stop()
    source.sql("create table if not exists noise(v text)")

    def lost():
        source.sql("insert into noise select repeat(md5(i::text), 50) from generate_series(1, 20000) i")
        source.sql("select pg_switch_wal()")
        source.sql("checkpoint")
        return source.one("select wal_status from pg_replication_slots where slot_name = %s", f"ss_{w.db}") == "lost"

    until("the slot is lost", lost, 60, 0.1)
    w.start_agent()
    agent = until("agent halted", lambda: (lambda r: r and r["agent"] and r["agent"]["state"] == "halted" and r["agent"])(w.route()), 30, 0.2, w.tell)
    assert "wal" in agent["reason"].lower(), agent
    tries = w.agent.text().count("halted")
    import time
    time.sleep(3)
    assert w.agent.text().count("halted") == tries, "a lost slot is tried again and again"


def test_columns_altered_twice_in_one_transaction(make_world):
    w = make_world()
    w.src("create table t(id int primary key, v text); insert into t values (1, 'a')")
    w.start()
    w.wait()
    w.src("begin; insert into t values (2, 'before'); alter table t add x int default 7; insert into t values (3, 'between', 8);"
          "alter table t add y text default 'y'; insert into t values (4, 'after', 9, 'z'); commit")
    w.until_state("halted")
    assert w.dst("select count(*) from t") == [(1,)], "a transaction is applied whole or not at all"
    w.cli("resync", "--route", "shop", "public.t", check=0)
    until("equal after the resync", lambda: w.cli("wait", "--route", "shop", "--timeout", 20).returncode == 0 and w.same("t"), 60, 0.5, w.tell)
    assert w.dst("select x, y from t where id = 1") == [(7, "y")]
