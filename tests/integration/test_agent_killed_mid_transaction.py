"""kill -9 of the agent in the middle of a large transaction, and of all programs at random moments under load."""

import random
import time

from workload import SCHEMA, TABLES, Workload


def test_large_transaction_comes_once(make_world):
    w = make_world()
    w.src("create table big(id int primary key, pad text); create table log(n int, pad text); alter table log replica identity full")
    w.start()
    w.wait()
    conn = w.source.connect(w.db, autocommit=False)
    with conn.cursor() as cur:
        cur.execute("insert into big select i, repeat('x', 300) from generate_series(1, 200000) i")
        cur.execute("insert into log select i % 10, repeat('y', 200) from generate_series(1, 100000) i")
    conn.commit()
    for _ in range(4):
        time.sleep(0.25)
        w.agent.kill()
        w.start_agent()
    w.wait(120)
    w.assert_same("big", "log")
    w.verify()


def test_everything_killed_again_and_again(make_world, seed):
    w = make_world()
    rng = random.Random(seed)
    w.src(SCHEMA)
    load = Workload(w, seed, pause=0.002).start()
    w.start()
    for _ in range(12):
        time.sleep(rng.uniform(0.1, 1.5))
        if rng.random() < 0.5:
            w.agent.kill()
            w.start_agent()
        else:
            w.applier.kill()
            w.start_applier()
    load.stop()
    w.wait(120)
    w.assert_same(*TABLES)
    w.verify()
