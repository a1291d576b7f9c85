"""A world whose agent and route reach their servers through a proxy each, and what is promised of a broken link: it is noticed
within half a minute, used again within ten seconds once it is well, and nothing is lost or doubled by it.

The two promises are about timeouts, so they are measured, with room for a machine that does other things at the same time."""

import threading
import time

from proxy import Proxy
from world import until

NOTICED_S, RESUMED_S, SLACK_S = 30, 10, 15
TROUBLED = ("waiting_source", "waiting_target", "silent", "absent", "halted")
GIVEN_UP = {"source": ("agent", "state=waiting_source code=SS-PG-"), "target": ("applier", "event=target_not_available")}
SIDES = ("source", "target")


def of_both(*daily):
    """Marks a story of either side. Most of them are long waits: with each run those of `daily`, all with --long."""
    def mark(story):
        story.daily = daily or SIDES
        return story
    return mark


def pytest_generate_tests(metafunc):
    """For test files, which import it."""
    daily = getattr(metafunc.function, "daily", None)
    if daily:
        metafunc.parametrize("side", SIDES if metafunc.config.getoption("--long") else daily)


class Tape:
    """Writes equal rows into a table without a key, and counts them."""

    def __init__(self, world, pause=0.02):
        self.world, self.pause, self.rows = world, pause, 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        conn = self.world.source.connect(self.world.db)
        with conn.cursor() as cur:
            while not self.ending.is_set():
                cur.execute("insert into tape select 'equal', repeat('x', 200) from generate_series(1, 5); "
                            "update counter set n = n + 1")
                self.rows += 5
                time.sleep(self.pause)
        conn.close()

    def stop(self):
        self.ending.set()
        self.thread.join(30)
        assert self.rows, "nothing was written: the test proves nothing"


class Linked:
    """`faulty` is the proxy of the side that the story is about."""

    def __init__(self, world, side):
        self.world, self.side = world, side
        self.proxies = {"source": Proxy(world.source.port), "target": Proxy(world.target.port)}
        self.faulty = self.proxies[side]
        world.agent_extra["postgres"] = {"dsn": self.proxies["source"].dsn(world.source.dsn(world.db)),
                                         "publication": f"sidespool_{world.name}", "slot": f"ss_{world.db}"}
        world.route_extra["target"] = {"postgres": {"dsn": self.proxies["target"].dsn(world.target.dsn(world.db))}}
        world.write_config()
        world.src("create table tape(what text, pad text); alter table tape replica identity full; create table counter(n int primary key); insert into counter values (0)")
        self.tape, self.marks = None, 0

    def start(self):
        self.world.start()
        self.world.wait()
        return self

    def load(self, pause=0.02):
        self.tape = Tape(self.world, pause)
        return self

    # -- the two promises --------------------------------------------------------------------------------------------
    def trouble(self):
        """What `status` says of this side, or None while it says that all is well."""
        route = self.world.route()
        if route is None:
            return None
        told = route["agent"] if self.side == "source" else route
        return f"{told['state']}: {told['reason']}" if told["state"] in TROUBLED else None

    def until_noticed(self):
        """Waits until `status` says what is wrong; returns what it says."""
        began = time.monotonic()
        told = until(f"`status` says what is wrong with the link to the {self.side}", self.trouble, NOTICED_S + SLACK_S, 0.25,
                     lambda: f"status: {self.world.status()}\n{self.world.tell()}")
        print(f"noticed after {time.monotonic() - began:.1f} s: {told}")
        return told

    def until_given_up(self):
        """Waits until the dead connection is closed on our side, for which TCP has timeouts."""
        process, text = GIVEN_UP[self.side]
        log = getattr(self.world, process)
        until("the dead connection is given up", lambda: any(text in line and "SS-PG-0113" not in line and "SS-PG-0114" not in line
                                                             for line in log.text().splitlines()[1:]), NOTICED_S + SLACK_S, 0.25,
              self.world.tell)

    def until_resumed(self):
        """What is committed after the link is well is on the target soon, and `status` says that all is well."""
        self.marks += 1
        self.write(f"mark {self.marks}")
        self.until_there(f"mark {self.marks}", RESUMED_S + SLACK_S)
        until("`status` says that all is well", lambda: not self.trouble(), RESUMED_S + SLACK_S, 0.25,
              lambda: f"status: {self.world.status()}\n{self.world.tell()}")

    def there(self, what):
        known = self.world.dst("select to_regclass('tape') is not null")[0][0]  # not before its copy has begun
        return known and self.world.dst("select 1 from tape where what = %s", what)

    def until_there(self, what, timeout):
        until(f"{what} on the target", lambda: self.there(what), timeout, 0.1,
              lambda: f"status: {self.world.status()}\n{self.world.tell()}")

    def write(self, what):
        self.world.src("insert into tape values (%s)", what)

    def ends_equal(self, *tables):
        if self.tape:
            self.tape.stop()
        self.world.wait()
        if self.tape:
            got = self.world.dst("select count(*) from tape where what = 'equal'")[0][0]
            assert got == self.tape.rows, f"{self.tape.rows} rows were written, {got} are there"
        self.world.assert_same("tape", "counter", *tables)
        self.world.verify()

    def close(self):
        for proxy in self.proxies.values():
            proxy.close()
