"""The demo behind scripts/demo; it uses sidespool as a user would: configuration files, programs, the `sidespool` command."""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import psycopg2

TOP = pathlib.Path(__file__).resolve().parents[1]
BIN = TOP / "build" / "release" / "bin"
SERVERS = TOP / "scripts" / "servers" / "postgres"
TTY = sys.stdout.isatty()

SHOP = """
create type status as enum ('new', 'paid', 'shipped');
create table customer(id bigint generated always as identity primary key, name text not null, email text unique, since date default current_date);
create table product(id int primary key, title text not null, price numeric(10,2) not null check (price > 0));
create table "order"(id bigint generated always as identity primary key, customer bigint not null references customer,
    state status not null default 'new', placed timestamptz not null default clock_timestamp());
create table order_line("order" bigint references "order", product int references product, quantity int not null, price numeric(10,2) not null,
    total numeric generated always as (quantity * price) stored, primary key ("order", product));
create table visit(at timestamptz default clock_timestamp(), page text);
alter table visit replica identity full;
create index on "order"(customer);
create view revenue as select product.title, sum(order_line.total) as total from order_line join product on product.id = order_line.product group by 1;
insert into customer(name, email) select 'customer ' || i, 'c' || i || '@example.org' from generate_series(1, %(n)s / 5) i;
insert into product select i, 'product ' || i, i * 1.99 from generate_series(1, 500) i;
insert into "order"(customer, state) select 1 + i %% (%(n)s / 5), 'paid' from generate_series(1, %(n)s) i;
insert into order_line select o, p, 1 + o %% 3, 9.99 from generate_series(1, %(n)s) o, lateral (select 1 + (o * 7 + k * 13) %% 500 p from generate_series(1, 4) k) s;
insert into visit(page) select '/product/' || i %% 500 from generate_series(1, %(n)s) i;
"""


def say(text):
    print(("\033[1m" + text + "\033[0m") if TTY else text, flush=True)


def line(text, last=False):
    """A line that the next one replaces, on a terminal."""
    if TTY:
        print("\r\033[K" + text, end="\n" if last else "", flush=True)
    elif last:
        print(text, flush=True)


class Demo:
    def __init__(self):
        self.folder = pathlib.Path(subprocess.run([SERVERS, "folder", "ssdemo"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
        self.children = []
        self.ports = {}
        self.starting = False
        self.stop_load = threading.Event()
        self.pause_load = threading.Event()
        self.commits = 0
        self.load_error = None

    # -- servers and programs
    def server(self, name):
        self.starting = True
        out = subprocess.run([SERVERS, "start", self.folder / name], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        self.ports[name] = int(out[0])
        self.starting = False

    def dsn(self, name, dbname="shop"):
        return f"host={self.folder / name} port={self.ports[name]} dbname={dbname} user=postgres"

    def connect(self, name, dbname="shop"):
        conn = psycopg2.connect(self.dsn(name, dbname))
        conn.autocommit = True
        return conn

    def one(self, name, query, *args):
        conn = self.connect(name)
        try:
            with conn.cursor() as cur:
                cur.execute(query, args or None)
                return cur.fetchone()[0]
        finally:
            conn.close()

    def spawn(self, program, config):
        log = open(self.folder / f"{program}.log", "ab")
        child = subprocess.Popen([BIN / program, "--config", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                 start_new_session=True)
        self.children.append(child)

    def cli(self, *words, check=True):
        done = subprocess.run([BIN / "sidespool", words[0], "--config", self.applier, *words[1:]], capture_output=True, text=True)
        if check and done.returncode:
            raise SystemExit(f"sidespool {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}{self.logs()}")
        return done

    def route(self):
        done = self.cli("status", "--json", check=False)
        if done.returncode:
            return None
        routes = json.loads(done.stdout)["routes"]
        return routes[0] if routes else None

    def logs(self):
        return "".join(f"--- {log.name}\n" + "".join(log.read_text(errors="replace").splitlines(True)[-15:])
                       for log in sorted(self.folder.glob("sidespool-*.log")))

    def until(self, what, fn, timeout):
        deadline = time.monotonic() + timeout
        while not fn():
            if time.monotonic() > deadline:
                raise SystemExit(f"\nwaited {timeout} s for {what}\n{self.logs()}")
            for child in self.children:
                if child.poll() is not None:
                    raise SystemExit(f"\na program ended with exit code {child.returncode}\n{self.logs()}")
            time.sleep(0.1)

    # -- the load
    def load(self):
        try:
            rng = random.Random(1)
            conn = psycopg2.connect(self.dsn("source"))
            customers = self.one("source", "select count(*) from customer")
            while not self.stop_load.is_set():
                if self.pause_load.is_set():
                    time.sleep(0.02)
                    continue
                with conn.cursor() as cur:
                    cur.execute('insert into "order"(customer) values (%s) returning id', (rng.randrange(1, customers + 1),))
                    order = cur.fetchone()[0]
                    for product in rng.sample(range(1, 501), 3):
                        cur.execute('insert into order_line values (%s, %s, 2, 5)', (order, product))
                    cur.execute("update \"order\" set state = 'shipped' where id = %s", (order - 20,))
                    cur.execute("insert into visit(page) values ('/thanks')")
                conn.commit()
                self.commits += 1
                time.sleep(0.002)
        except Exception as error:  # reported by the main thread
            self.load_error = error

    # -- the acts
    def set_up(self, rows):
        say("1. Two throwaway PostgreSQL servers on loopback, and a small shop")
        for name in ("source", "target"):
            self.server(name)
            self.connect(name, "postgres").cursor().execute("create database shop")
        self.connect("source").cursor().execute(SHOP, {"n": rows})
        print(f"   source 127.0.0.1:{self.ports['source']}, target 127.0.0.1:{self.ports['target']}, "
              f"{self.one('source', 'select sum(reltuples)::bigint from (select count(*) reltuples from order_line union all select count(*) from visit) s'):,} rows in the two largest tables")
        self.agent, self.applier = self.folder / "shop.yaml", self.folder / "applier.yaml"
        self.agent.write_text(f"""source: shop
postgres: {{dsn: "{self.dsn('source')}", publication: sidespool_shop, slot: sidespool_shop}}
spool: {{path: {self.folder}/spool, max_size: 4GiB, retain: 10m}}
""")
        self.applier.write_text(f"""spool: {{path: {self.folder}/spool}}
control: {{socket: {self.folder}/applier.sock}}
routes:
  - source: shop
    name: shop-copy
    target: {{postgres: {{dsn: "{self.dsn('target')}"}}}}
""")
        (self.folder / "spool").mkdir()
        say("2. sidespool-postgres --check: what the source must have")
        done = subprocess.run([BIN / "sidespool-postgres", "--config", self.agent, "--check"], capture_output=True, text=True)
        print("".join("   " + row + "\n" for row in done.stdout.splitlines()[:12]), end="")
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)

    def copy(self):
        say("3. Agent and applier start; the route asks for a copy")
        began = time.monotonic()
        self.spawn("sidespool-postgres", self.agent)
        self.spawn("sidespool-applier", self.applier)

        def copied():
            route = self.route()
            if not route:
                return False
            tables = route["tables"]["list"]
            rows = sum(t["rows"] for t in tables)
            wanted = max(1, sum(max(t["rows_estimate"], t["rows"]) for t in tables))
            done = sum(t["status"] == "ready" for t in tables)
            ready = bool(tables) and done == len(tables) and route["state"] == "streaming"
            filled = int(30 * (1 if ready else min(rows / wanted, 0.99)))
            line(f"   [{'#' * filled}{'.' * (30 - filled)}] {rows:,} rows, {done} of {len(tables)} tables ready, {route['state']}", ready)
            return ready

        self.until("the copy", copied, 120)
        print(f"   copied in {time.monotonic() - began:.1f} s")

    def live(self):
        say("4. Live changes, and how long each takes to be seen on the target")
        threading.Thread(target=self.load, daemon=True).start()
        src, dst = self.connect("source").cursor(), self.connect("target").cursor()
        took = []
        for n in range(60):
            src.execute("insert into visit(page) values (%s)", (f"/probe/{n}",))
            began = time.monotonic()
            while True:
                dst.execute("select 1 from visit where page = %s", (f"/probe/{n}",))
                if dst.fetchone():
                    break
                if time.monotonic() - began > 20:
                    raise SystemExit(f"a change did not arrive within 20 s\n{self.logs()}")
                time.sleep(0.0005)
            took.append((time.monotonic() - began) * 1000)
            ordered = sorted(took)
            line(f"   {self.commits:,} transactions under way; {len(took)} probes: median {ordered[len(took) // 2]:.1f} ms, worst {ordered[-1]:.1f} ms", n == 59)
            time.sleep(0.03)

    def outage(self, seconds):
        say(f"5. The target goes down for {seconds} seconds; the source is released all the same")
        slot = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'sidespool_shop'"
        first = self.one("source", slot)
        subprocess.run([SERVERS, "stop", self.folder / "target", "immediate"], check=True)
        for second in range(seconds):
            time.sleep(1)
            route = self.route() or {}
            line(f"   {second + 1:2} s  backlog {route.get('behind_records', 0):,} records, state {route.get('state')}, "
                 f"slot's confirmed position {self.one('source', slot)}", second + 1 == seconds or not TTY)
        last = self.one("source", slot)
        if first == last:
            raise SystemExit("the slot did not move during the outage\n" + self.logs())
        print(f"   slot moved from {first} to {last} without a target")

    def catch_up(self):
        say("6. The target is back")
        subprocess.run([SERVERS, "start", self.folder / "target"], check=True, stdout=subprocess.DEVNULL)
        began, backlog = time.monotonic(), (self.route() or {}).get("behind_records", 0)
        self.until("the catch-up", lambda: (lambda r: r and r["state"] == "streaming" and r["behind_records"] < 200)(self.route()), 90)
        print(f"   {backlog:,} records caught up in {time.monotonic() - began:.1f} s, under load")
        if self.load_error:
            raise SystemExit(f"the load failed: {self.load_error}")

    def compare(self):
        say("7. Every cell of both databases, compared at one position while changes go on")
        done = self.cli("verify", "--route", "shop-copy", check=False)
        print("".join("   " + row + "\n" for row in done.stdout.splitlines()), end="")
        if done.returncode:
            raise SystemExit(f"verify: exit {done.returncode}\n{done.stderr}{self.logs()}")
        print("".join("   " + row + "\n" for row in self.cli("status").stdout.splitlines()), end="")

    def keep(self):
        self.pause_load.set()
        say("\nLeft running (--keep). To play with:")
        for text in (f"export PATH={BIN}:$PATH",
                     f"psql '{self.dsn('source')}'        # change something here …",
                     f"psql '{self.dsn('target')}'        # … and see it here",
                     f"sidespool status --config {self.applier} --watch",
                     f"sidespool wait   --config {self.applier} --route shop-copy",
                     f"sidespool verify --config {self.applier} --route shop-copy",
                     f"sidespool spool dump --spool {self.folder}/spool shop | tail",
                     f"{SERVERS} stop {self.folder}/target; {SERVERS} start {self.folder}/target",
                     "# to end it:",
                     f"kill {' '.join(str(c.pid) for c in self.children)}; for s in source target; do {SERVERS} stop {self.folder}/$s; done; rm -rf {self.folder}"):
            print("  " + text)

    def close(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
        self.stop_load.set()
        for child in self.children:
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
        time.sleep(0.2 if self.starting else 0)  # a server that was starting when we were interrupted has its pid file soon
        for name in ("source", "target"):
            subprocess.run([SERVERS, "stop", self.folder / name, "immediate"], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Shows sidespool at work on two throwaway servers.")
    parser.add_argument("engine", nargs="?", default="postgres", choices=["postgres"])
    parser.add_argument("--keep", action="store_true", help="leave it running and print commands to play with")
    parser.add_argument("--rows", type=int, default=200_000, help="orders in the shop (default 200000)")
    parser.add_argument("--outage", type=int, default=8, help="seconds that the target is down (default 8)")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    demo = Demo()
    kept = False
    try:
        demo.set_up(args.rows)
        demo.copy()
        demo.live()
        demo.outage(args.outage)
        demo.catch_up()
        demo.compare()
        if args.keep:
            demo.keep()
            kept = True
        else:
            say("Equal. Everything is cleaned up.")
    finally:
        if not kept:
            demo.close()


main()
