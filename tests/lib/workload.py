"""A random, concurrent workload with an invariant over several tables, and a reader that checks it on the target."""

import random
import threading
import time

import psycopg2
import psycopg2.errors

ACCOUNTS = 40
TOTAL = ACCOUNTS * 1000

SCHEMA = f"""
create table account(id int primary key, branch int not null, balance bigint not null, note text);
create table branch(id int primary key, balance bigint not null);
create table journal(at timestamptz default clock_timestamp(), src int, dst int, amount bigint not null, big text);
alter table journal replica identity full;
create table tag(id bigserial primary key, label text unique, account int references account(id));
insert into account select i, i % 4, 1000, repeat('n', 10) from generate_series(1, {ACCOUNTS}) i;
insert into branch select b, (select sum(balance) from account where branch = b) from generate_series(0, 3) b;
"""

# Each is true in every committed state of the source: money is kept, branches agree with accounts, and the journal (a table
# without a key, whose rows may be equal) accounts for every change.
INVARIANT = f"""
select (select sum(balance) from account) = {TOTAL}
   and (select sum(balance) from branch) = {TOTAL}
   and not exists (select 1 from branch b where balance <>
         (select coalesce(sum(balance), 0) from account a where a.branch = b.id))
   and not exists (select 1 from account a where balance <> 1000
         + (select coalesce(sum(amount), 0) from journal where dst = a.id)
         - (select coalesce(sum(amount), 0) from journal where src = a.id))
   and not exists (select 1 from tag where account is not null and not exists (select 1 from account a where a.id = account))
"""
TABLES = ("account", "branch", "journal", "tag")


def transfer(cur, rng):
    a, b = rng.sample(range(1, ACCOUNTS + 1), 2)
    for _ in range(rng.choice((1, 1, 1, 5, 40))):
        amount = rng.randrange(1, 10)
        cur.execute("update account set balance = balance - %s where id = %s", (amount, a))
        cur.execute("update account set balance = balance + %s, note = %s where id = %s",
                    (amount, rng.choice((None, "x", "n" * 3000)), b))
        cur.execute("update branch set balance = balance - %s where id = %s", (amount, a % 4))
        cur.execute("update branch set balance = balance + %s where id = %s", (amount, b % 4))
        cur.execute("insert into journal(at, src, dst, amount, big) values ('2020-01-01', %s, %s, %s, %s)",
                    (a, b, amount, rng.choice((None, "j" * 5000, "k"))))
        if rng.random() < 0.2:  # one of several equal rows goes and comes back
            cur.execute("with d as (delete from journal where ctid = (select ctid from journal limit 1) returning *) "
                        "insert into journal select * from d")


def tags(cur, rng):
    kind = rng.randrange(5)
    if kind == 0:
        cur.execute("insert into tag(label, account) select 'l' || nextval('tag_id_seq'), %s from generate_series(1, 20)",
                    (rng.randrange(1, ACCOUNTS + 1),))
    elif kind == 1:
        cur.execute("delete from tag where id in (select id from tag order by random() limit 5)")
    elif kind == 2:  # a unique value swapped between two rows, by way of a third value
        cur.execute("select id, label from tag order by random() limit 2 for update")
        rows = cur.fetchall()
        if len(rows) == 2:
            (i, li), (j, lj) = rows
            cur.execute("update tag set label = 'swap' || id where id = %s", (i,))
            cur.execute("update tag set label = %s where id = %s", (li, j))
            cur.execute("update tag set label = %s where id = %s", (lj, i))
    elif kind == 3:  # the key itself changes
        cur.execute("update tag set id = nextval('tag_id_seq') where id = (select id from tag order by random() limit 1)")
    else:
        cur.execute("update tag set account = null where id in (select id from tag order by random() limit 3)")


class Workload:
    """`threads` writers on the source until stop(); errors of theirs are raised by stop()."""

    def __init__(self, world, seed, threads=3, pause=0.0):
        self.world, self.pause = world, pause
        self.ending = threading.Event()
        self.errors, self.commits = [], 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(random.Random(seed * 100 + n),), daemon=True)
                        for n in range(threads)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def work(self, rng):
        conn = None
        while not self.ending.is_set():
            try:
                if conn is None:
                    conn = self.world.source.connect(self.world.db, autocommit=False)
                with conn.cursor() as cur:
                    (transfer if rng.random() < 0.7 else tags)(cur, rng)
                    if rng.random() < 0.1:
                        cur.execute("savepoint s; update account set note = 'never'; rollback to savepoint s")
                if rng.random() < 0.1:
                    conn.rollback()
                else:
                    conn.commit()
                    with self.lock:
                        self.commits += 1
            except (psycopg2.errors.DeadlockDetected, psycopg2.errors.UniqueViolation, psycopg2.errors.SerializationFailure):
                conn.rollback()
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                conn = None  # the server is down: a story that kills it goes on
                time.sleep(0.2)
            except Exception as error:  # handed to the test by stop()
                self.errors.append(error)
                return
            if self.pause:
                time.sleep(self.pause)

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join(30)
        if self.errors:
            raise self.errors[0]
        assert self.commits, "the workload committed nothing: the test proves nothing"
        return self.commits


class Watcher:
    """Reads the invariant on the target all the while; a broken one is raised by stop()."""

    def __init__(self, world):
        self.world = world
        self.ending = threading.Event()
        self.reads, self.broken, self.versions = 0, None, set()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def work(self):
        conn = None
        while not self.ending.is_set():
            try:
                conn = conn or self.world.target.connect(self.world.db)
                with conn.cursor() as cur:
                    cur.execute(INVARIANT)
                    ok = cur.fetchone()[0]
                    cur.execute("select count(*), sum(amount) from journal")
                    self.versions.add(cur.fetchone())
                self.reads += 1
                if not ok:
                    self.broken = self.reads
                    return
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                conn = None
                time.sleep(0.2)
            time.sleep(0.01)

    def stop(self):
        self.ending.set()
        self.thread.join(30)
        assert self.broken is None, f"the invariant was broken on the target at read {self.broken}"
        assert self.reads > 0, "nobody read the target: the test proves nothing"
        return len(self.versions)
