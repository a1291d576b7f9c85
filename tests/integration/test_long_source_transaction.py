"""A transaction of the source that stays open: what has to wait for it (a snapshot, a slot) waits beside the stream."""

import threading
import time

from links import Linked
from world import until

SCHEMA = """
create table long(id int primary key, v text); create table again(id int primary key, v text); create table live(id int primary key);
insert into long select i, 'v' from generate_series(1, 100) i; insert into again select i, 'v' from generate_series(1, 100) i;
"""


def open_transaction(w, row):
    conn = w.source.connect(w.db, autocommit=False)
    conn.cursor().execute("insert into long values (%s, 'late')", (row,))
    return conn


def changes_arrive(w, first, seconds):
    """Rows of another table reach the target one by one while the transaction is open."""
    deadline, i = time.monotonic() + seconds, first
    while time.monotonic() < deadline:
        w.src("insert into live values (%s)", i)
        until(f"row {i} on the target", lambda: w.dst("select 1 from live where id = %s", i), 15, 0.05, w.tell)
        i += 1
        time.sleep(0.2)
    return i


def ends_orderly(w):
    began = time.monotonic()
    assert w.agent.stop(timeout=8) == 0, w.tell()
    assert "stopped_at_once" not in w.agent.text().split("event=stopping")[-1], w.tell()
    assert time.monotonic() - began < 5
    until("nothing left at the source", lambda: w.src(
        "select count(*) from pg_stat_activity where application_name = 'sidespool-shop'") == [(0,)], 10, 0.1)


def test_a_resync_waits_for_it_and_the_stream_goes_on(make_world):
    w = make_world()
    w.src(SCHEMA)
    w.start()
    w.wait()
    conn = open_transaction(w, 1000)
    pid = conn.info.backend_pid
    w.cli("resync", "--route", "shop", "public.again", check=0)
    w.until_log(w.agent, f"(pid {pid})")
    after = changes_arrive(w, 1, 10)
    assert after > 5
    assert f"pid {pid}" in w.cli("status", "--json").stdout
    conn.commit()
    w.wait()
    w.assert_same("long", "again", "live")
    generations = dict(w.dst("select name, generation from sidespool.table_state"))
    assert generations["again"] > generations["live"]


def test_a_verify_waits_for_it_and_the_stream_goes_on(make_world):
    w = make_world()
    w.src(SCHEMA)
    w.start()
    w.wait()
    conn = open_transaction(w, 1000)
    results = []
    thread = threading.Thread(target=lambda: results.append(w.cli("verify", "--route", "shop")))
    thread.start()
    w.until_log(w.agent, "event=source_waits")
    changes_arrive(w, 1, 4)
    assert not results
    conn.commit()
    thread.join(60)
    assert results and results[0].returncode == 0, results


def test_the_agent_stops_while_a_copy_waits_for_it(make_world):
    w = make_world()
    w.src(SCHEMA)
    w.start()
    w.wait()
    conn = open_transaction(w, 1000)
    w.cli("resync", "--route", "shop", "public.again", check=0)
    w.until_log(w.agent, "event=source_waits")
    ends_orderly(w)
    w.start_agent()
    changes_arrive(w, 1, 2)
    conn.commit()
    w.wait()
    w.assert_same("long", "again", "live")


def test_the_agent_stops_while_its_slot_is_made(make_world):
    w = make_world()
    w.src(SCHEMA)
    conn = open_transaction(w, 1000)
    w.start_agent()
    w.until_log(w.agent, "event=source_waits")
    ends_orderly(w)
    assert w.src("select count(*) from pg_replication_slots where slot_name = %s", f"ss_{w.db}") == [(0,)]
    w.start()
    conn.commit()
    w.wait()
    w.assert_same("long", "again", "live")


def test_one_that_begins_under_the_snapshot_does_not_hold_the_stream(make_world):
    """Transactions that overlap for ever: each try under hold is short, and the copy comes in the end."""
    w = make_world()
    w.src(SCHEMA)
    w.start()
    w.wait()
    done = threading.Event()

    def overlap(n):
        i = n
        while not done.is_set():
            conn = open_transaction(w, 10000 + i)
            time.sleep(3)
            conn.commit()
            conn.close()
            i += 2

    threads = [threading.Thread(target=overlap, args=(n,)) for n in (0, 1)]
    threads[0].start()
    time.sleep(1.5)
    threads[1].start()
    try:
        w.cli("resync", "--route", "shop", "public.again", check=0)
        until("a try was put off", lambda: "code=SS-PG-0110" in w.agent.text(), 60, 0.2, w.tell)
        changes_arrive(w, 1, 3)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    w.wait()
    w.assert_same("long", "again", "live")


def test_a_pooler_hides_which_session_is_ours(make_world):
    """Whoever waits long is not taken for dead because nobody at the source has its process number."""
    link = Linked(make_world(), "source")
    w = link.world
    try:
        w.src(SCHEMA)
        conn = open_transaction(w, 1000)
        link.faulty.hide_processes()
        w.start()
        w.until_log(w.agent, "event=source_waits")
        time.sleep(24)
        assert any(way.renamed for one in link.faulty.links for way in (one.up, one.down)), "nothing was hidden: the test proves nothing"
        assert "SS-PG-0115" not in w.agent.text(), w.tell()
        conn.commit()
        w.wait()
        w.assert_same("long", "again", "live")
    finally:
        link.close()


def test_the_answer_is_lost_on_its_way(make_world):
    """It ends while the link loses everything, though TCP is well: the source has answered and waits for us. And before that it is
    waited for longer than a silent link is waited for, which is no fault."""
    link = Linked(make_world(), "source")
    w = link.world
    try:
        w.src(SCHEMA)
        conn = open_transaction(w, 1000)
        w.start()
        w.until_log(w.agent, "event=source_waits")
        time.sleep(24)
        assert "SS-PG-0115" not in w.agent.text(), w.tell()
        made = w.agent.text().count("event=slot_made")
        link.faulty.swallow()
        conn.commit()
        time.sleep(2)
        link.faulty.resume()
        assert w.agent.text().count("event=slot_made") == made, "the answer was there: the test proves nothing"
        w.until_log(w.agent, "SS-PG-0115", 45)
        w.wait()
        w.assert_same("long", "again", "live")
    finally:
        link.close()
