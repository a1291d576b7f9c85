"""Both servers killed and started again, and connections cut, under load."""

import time

from workload import SCHEMA, TABLES, Workload


def test_source_and_target_killed(make_world, own_servers, seed):
    source, target = own_servers(fsync="on", full_page_writes="on"), own_servers(fsync="on", full_page_writes="on")
    w = make_world(source=source, target=target)
    w.src(SCHEMA)
    w.start()
    w.wait()
    load = Workload(w, seed, pause=0.002).start()
    time.sleep(1)
    source.kill()
    source.start()
    time.sleep(1.5)
    target.kill()
    target.start()
    time.sleep(1.5)
    source.stop("fast")  # a smart or fast stop waits for the walsender: the agent must not hold it up for ever
    source.start()
    time.sleep(1)
    load.stop()
    w.wait(120)
    w.assert_same(*TABLES)
    w.verify()


def test_connections_cut(make_world, seed):
    w = make_world()
    w.src(SCHEMA)
    w.start()
    w.wait()
    load = Workload(w, seed, pause=0.002).start()
    for _ in range(8):
        time.sleep(0.7)
        w.source.sql("select pg_terminate_backend(pid) from pg_stat_replication where application_name like 'sidespool%%'"
                     " or pid in (select active_pid from pg_replication_slots where slot_name = %s)", f"ss_{w.db}")
        w.target.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and application_name like 'sidespool%%'", w.db)
    load.stop()
    w.wait(120)
    w.assert_same(*TABLES)
    w.verify()
