"""Backlogs of other shapes than pgbench's, from spool to target: none is to be slower than a native subscription."""

from bench import Backlog


def apply(bench, name, unit, schema, load, changes):
    """Loads a backlog, captures it once, then applies it again and again, both ways in turns."""
    made = Backlog(bench, schema)
    conn = made.source.connect(made.world.db)
    with conn.cursor() as cursor:
        cursor.execute("set synchronous_commit = off")
        for statement in load:
            cursor.execute(statement)
    conn.close()
    made.written(changes)
    print(f"   backlog: {changes:,} {unit}, {made.wal / 2**20:.0f} MiB of WAL", flush=True)
    made.capture_ours(0)
    bench.pairs(f"apply of {name}", changes, unit, made.apply_ours, made.apply_native)


def each_commits(times, body):
    """A loop of `times` transactions of their own, i from 1."""
    return f"do $$ begin for i in 1 .. {times} loop {body}; commit; end loop; end $$"


def bulk(bench):
    transactions, rows = 8, bench.amount(50_000)
    apply(bench, "50,000 inserts per transaction", "rows",
          "create table bulk(id bigint primary key, made timestamptz not null, amount numeric(12,2), note text)",
          [f"insert into bulk select {t * rows} + g, '2026-01-01'::timestamptz + g * interval '1 s', g / 7.0, md5(g::text)"
           f"  from generate_series(1, {rows}) g" for t in range(transactions)], transactions * rows)


def hot(bench):
    times = bench.amount(300_000)
    apply(bench, "single-row updates of 100 hot keys", "transactions",
          "create table hot(id int primary key, n bigint not null, note text);"
          " insert into hot select g, 0, md5(g::text) from generate_series(1, 100) g",
          [each_commits(times, "update hot set n = n + i where id = 1 + i % 100")], times)


def many(bench):
    tables, times = 1000, bench.amount(100_000)
    names = [f"many_{n}" for n in range(tables)]
    # Two statements per transaction and table, each parsed once per session: functions keep their plans.
    schema = "".join(f"create table {t}(id bigint primary key, v text not null, at timestamptz); "
                     f"insert into {t} select g, 'a row of the copy', now() from generate_series(1, 100) g; " for t in names)
    apply(bench, "changes over 1,000 tables", "changes", schema,
          [each_commits(times, f"execute 'insert into many_' || i % {tables} || ' values ($1, $2, now())' using 1000 + i, md5(i::text);"
                               f" execute 'update many_' || (i * 7) % {tables} || ' set v = $2 where id = $1' using 1 + (i / {tables}) % 100, md5(i::text)")],
          2 * times)


def wide(bench):
    rows, updates = bench.amount(20_000), bench.amount(100_000)
    types = ("int", "text", "numeric(14,4)", "timestamptz", "bigint", "boolean", "double precision", "date", "text", "uuid")
    values = ("g", "md5(g::text)", "g / 3.0", "'2026-01-01'::timestamptz + g * interval '1 s'", "g * 1000003::bigint", "g % 2 = 0", "g / 7.0",
              "'2026-01-01'::date + g % 1000", "'column of row ' || g", "md5(g::text)::uuid")
    columns = ", ".join(f"c{n} {types[n % 10]}" for n in range(99))
    fill = ", ".join(values[n % 10] for n in range(99))
    apply(bench, "rows of 100 columns", "changes", f"create table wide(id int primary key, {columns})",
          [each_commits(max(1, rows // 10), f"insert into wide select g, {fill} from generate_series(i * 10 - 9, i * 10) g"),
           each_commits(updates, f"update wide set c4 = i where id = 1 + (i * 7919::bigint) % {rows}")], rows // 10 * 10 + updates)


def large(bench):
    rows = bench.amount(40)
    # As text a quarter of it is random and hardly shrinks; the other kind is one short object again and again.
    schema = """
        create table large_json(id int primary key, v json, n int); create table large_jsonb(id int primary key, v jsonb, n int);
        create function noise(k int) returns jsonb language sql as $$
            select jsonb_agg(md5(k::text || g) || md5(g::text || k)) from generate_series(1, 15400) g $$;
        create function dull(k int) returns jsonb language sql as $$
            select jsonb_agg(jsonb_build_object('id', k, 'state', 'ordered', 'note', 'nothing to say')) from generate_series(1, 17500) g $$"""
    load = []
    for table, kind in (("large_json", "json"), ("large_jsonb", "jsonb")):
        load += [each_commits(rows, f"insert into {table} values (2 * i, noise(i)::{kind}, 0), (2 * i + 1, dull(i)::{kind}, 0)"),
                 each_commits(rows, f"update {table} set v = noise(-i)::{kind} where id = 2 * i; update {table} set n = i where id = 2 * i + 1")]
    apply(bench, "1 MB JSON values", "changes", schema, load, rows * 8)


SCENARIOS = {
    "apply-bulk": ("50,000 inserts in each of 8 transactions", bulk),
    "apply-hot": ("300,000 single-row updates of 100 rows", hot),
    "apply-many": ("200,000 changes over 1,000 tables", many),
    "apply-wide": ("20,000 inserts of 100 columns, 100,000 updates of one of them", wide),
    "apply-large": ("json and jsonb values of 1 MB, random and repetitive", large),
}
