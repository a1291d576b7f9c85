"""The links of a running stream break: the agent's to the source, the route's to the target, through a proxy over TCP. Each break is
noticed, said, and got over by itself."""

import time

import pytest

from links import Linked, of_both, pytest_generate_tests  # noqa: F401
from proxy import CLIENT, SERVER
from world import until


@pytest.fixture
def linked(make_world):
    made = []

    def make(side, **kw):
        made.append(Linked(make_world(**kw), side))
        return made[-1]

    yield make
    for one in made:
        one.close()


@of_both()
def test_reset_again_and_again(linked, side):
    link = linked(side).start().load()
    for _ in range(5):
        time.sleep(0.6)
        made = link.faulty.made
        link.faulty.reset()
        until("it connects again", lambda: link.faulty.made > made, 30, 0.05, link.world.tell)
    link.until_resumed()
    link.ends_equal()


@of_both()
def test_half_open_under_load(linked, side):
    """Packets vanish, nobody gets a FIN: only a timeout can tell."""
    link = linked(side).start().load()
    time.sleep(1)
    link.faulty.half_open()
    link.write("into the void")
    link.until_noticed()
    assert not link.there("into the void"), "the link was not dead: the test proves nothing"
    link.until_given_up()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


@of_both("source")
def test_half_open_and_well_again_before_it_is_given_up(linked, side):
    """TCP itself sends again what was lost."""
    link = linked(side).start().load()
    time.sleep(1)
    link.faulty.half_open()
    link.until_noticed()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


@of_both("source")
def test_half_open_while_idle(linked, own_servers, side):
    """Nobody has anything to say, and the source's own timeout is off."""
    link = linked(side, source=own_servers(wal_sender_timeout="0")).start()
    time.sleep(1)
    link.faulty.half_open()
    link.until_noticed()
    link.until_given_up()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


@of_both("source")
def test_nobody_behind_a_live_connection(linked, own_servers, side):
    """A tunnel that has lost its far side: TCP answers, what is sent is lost or stays where it is."""
    link = linked(side, source=own_servers(wal_sender_timeout="0")).start().load()
    time.sleep(1)
    link.faulty.swallow() if side == "source" else link.faulty.hang()
    link.until_noticed()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


@of_both("source")
def test_one_byte_a_second(linked, side):
    link = linked(side).start().load()
    time.sleep(1)
    link.faulty.throttle(1)
    link.until_noticed()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


@of_both("target")
def test_half_a_second_each_way_is_no_fault(linked, side):
    link = linked(side).start()
    logs = (link.world.agent, link.world.applier)
    before = [len(log.text()) for log in logs]
    link.faulty.delay(0.5)
    link.load()
    time.sleep(6)
    link.until_resumed()
    since = "".join(log.text()[n:] for log, n in zip(logs, before))
    assert "waiting_" not in since and "not_available" not in since, since
    link.faulty.resume()
    link.ends_equal()


@of_both("target")
def test_three_packets_in_ten_are_lost(linked, side):
    link = linked(side).start().load()
    link.faulty.lose(0.3)
    time.sleep(8)
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


@pytest.mark.parametrize("into", (1, 24, 60))
def test_cut_in_the_middle_of_a_message(linked, into):
    """The walsender's envelope has 25 bytes, so once before, once inside and once behind its end."""
    link = linked("source").start().load()
    for n in range(1, 4):
        time.sleep(0.4)
        link.faulty.cut_in_message(SERVER, into)
        until("a message is cut", lambda: link.faulty.cuts == n, 30, 0.05, link.world.tell)
    link.until_resumed()
    link.ends_equal()


@of_both("source")
def test_refused_for_a_while(linked, side):
    """Long enough for the pauses between tries to grow as far as they do."""
    link = linked(side).start().load()
    link.faulty.refuse()
    link.until_noticed()
    time.sleep(15)
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal()


def test_slow_statement_on_the_target_is_not_cut(linked):
    """The target works on a statement and reads nothing meanwhile: TCP's window is shut for longer than a dead link is waited for, with
    more behind it than the buffers of both hosts hold."""
    link = linked("target")
    link.world.src("create table slow(id int primary key, v text); create table wide(id int primary key, v text)")
    link.start()
    link.world.dst("""create function dawdle() returns trigger language plpgsql as $$begin perform pg_sleep(26); return null; end$$;
        create trigger dawdle after insert on slow for each statement execute function dawdle();
        alter table slow enable always trigger dawdle""")
    link.world.src("insert into slow values (1, 'x'); insert into wide select i, (select string_agg(md5(i::text || j), '') "
                   "from generate_series(1, 300) j) from generate_series(1, 2500) i")
    sent = link.faulty.passed[CLIENT]
    link.until_noticed()  # it waits for its target, and says so
    assert link.faulty.passed[CLIENT] > sent, link.world.tell()
    link.world.wait(90)
    assert "target_not_available" not in link.world.applier.text(), link.world.tell()
    link.ends_equal("slow", "wide")
