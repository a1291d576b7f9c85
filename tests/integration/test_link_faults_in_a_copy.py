"""The links break while a table is copied: what the source sends, or what the target takes. The copy goes on by itself, and what was
written meanwhile is there exactly once."""

import pytest

from links import Linked, of_both, pytest_generate_tests  # noqa: F401
from proxy import CLIENT, SERVER
from world import until

MEGABYTE = 1 << 20
FLOW = {"source": SERVER, "target": CLIENT}  # whose bytes are the rows


@pytest.fixture
def copying(make_world):
    """A copy of a table of 24 MB, in its middle, while the source is written to."""
    made = []

    def make(side):
        world = make_world()
        link = Linked(world, side)
        made.append(link)
        world.src("create table big(id int primary key, v text); "
                  "insert into big select i, repeat(md5(i::text), 24) from generate_series(1, 30000) i")
        link.faulty.throttle(4 * MEGABYTE)
        world.start()
        link.load()
        until("the copy's middle", lambda: link.faulty.passed[FLOW[side]] > 6 * MEGABYTE, 60, 0.02, world.tell)
        return link

    yield make
    for link in made:
        link.close()


def in_the_middle(link):
    return link.world.dst("select count(*) from pg_class where relname = 'big'")[0][0] == 0 or \
        link.world.dst("select count(*) from big")[0][0] < 30000


@of_both("target")
def test_half_open(copying, side):
    link = copying(side)
    assert in_the_middle(link), "the copy was over before the link broke"
    link.faulty.half_open()
    link.until_noticed()
    if side == "target":  # at the source each of several connections is given up by itself
        link.until_given_up()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal("big")


@of_both()
def test_reset_and_cut_in_a_row(copying, side):
    link = copying(side)
    assert in_the_middle(link), "the copy was over before the link broke"
    link.faulty.reset()
    link.faulty.throttle(None)
    link.faulty.cut_in_message(FLOW[side], 30)
    until("a row is cut", lambda: link.faulty.cuts, 60, 0.02, link.world.tell)
    link.until_resumed()
    link.ends_equal("big")


def test_a_reset_is_noticed_at_once(copying):
    """It is told by the kernel: nobody waits until a silent link would be taken for dead, which is 20 s."""
    link = copying("source")
    assert in_the_middle(link), "the copy was over before the link broke"
    before = len(link.world.agent.text())
    link.faulty.reset()
    aborted = until("the copy is aborted", lambda: [line for line in link.world.agent.text()[before:].splitlines() if "event=copy_aborted" in line],
                    8, 0.05, link.world.tell)
    assert "SS-PG-0115" not in aborted[0], aborted
    link.faulty.throttle(None)
    link.until_resumed()
    link.ends_equal("big")


def test_nobody_behind_a_live_connection(copying):
    """Of the target's side see the stream's story: what is on its way to a target is taken by both hosts' buffers long before."""
    link = copying("source")
    assert in_the_middle(link), "the copy was over before the link broke"
    link.faulty.hang()
    link.until_noticed()
    link.faulty.resume()
    link.until_resumed()
    link.ends_equal("big")
