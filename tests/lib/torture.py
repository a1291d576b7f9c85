"""Every built-in type with its extreme values (PostgreSQL's documentation, chapter 8), arrays, composites, domains, ranges."""

NUMERIC_1000 = "9" * 500 + "." + "1" * 500

VALUES = {
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "numeric": ["NaN", "Infinity", "-Infinity", NUMERIC_1000, "-0.000000000000000001", "1.0", "1.00"],
    "numeric(10,2)": ["99999999.99", "-0.01"],
    "numeric(5,-2)": ["1234500"],
    "real": ["NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "-0", "0.1"],
    "double precision": ["NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "-0", "0.1", "0.30000000000000004"],
    "money": ["-92233720368547758.08", "92233720368547758.07"],
    "text": ["", " ", "\\N", "\\.", "a\tb\nc\rd\\e", "'\"{},()", "NULL", "null", "\u00e4\u20ac\U0001f600", "x" * 100_000],
    "varchar(5)": ["", "abcde", "\u20ac\u20ac\u20ac\u20ac\u20ac"],
    "char(5)": ["", "ab", "abcde"],
    "\"char\"": ["a", "", "\\303"],
    "name": ["", "pg_class", "Mixed Case"],
    "bytea": ["", "\\x00", "\\xdeadbeef00ff", "\\x" + "00ff5c" * 30_000],
    "bit(8)": ["00000000", "11111111", "10101010"],
    "bit varying": ["", "1", "0" * 70],
    "bit varying(3)": ["101"],
    "boolean": ["t", "f"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29"],
    "time": ["00:00:00", "24:00:00", "23:59:59.999999"],
    "time(2)": ["12:34:56.78"],
    "timetz": ["00:00:00+15:59", "24:00:00-15:59", "12:00:00.123456+05:30"],
    "timestamp": ["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"],
    "timestamptz": ["infinity", "-infinity", "4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"],
    "timestamptz(3)": ["2024-02-29 12:00:00.123+00"],
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "-178000000 years", "178000000 years", "00:00:00.000001", "1 mon -1 day"],
    "interval day to second(3)": ["1 day 02:03:04.567"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "json": ['{"b":1,  "a":2, "a":3}', "null", '"\\u0041"', "[1e400]"],
    "jsonb": ['{"a": [1, 2.50, null]}', "null", "1e131071"],
    "xml": ["<a>b &amp; c</a>", "text", "<a/><b/>"],
    "inet": ["0.0.0.0/0", "::1", "192.168.1.5/24", "2001:db8::/32"],
    "cidr": ["10.0.0.0/8", "::/0"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1e300,-1e-300)", "(0,-0)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(0,0),(1,1)]"],
    "box": ["(1,1),(0,0)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "circle": ["<(1,2),3>"],
    "tsvector": ["'a':1A,3 'b c':2", ""],
    "tsquery": ["'a' & !'b' | ( 'c':*A <2> 'd' )"],
    "pg_lsn": ["FFFFFFFF/FFFFFFFF", "0/0"],
    "oid": ["4294967295", "0"],
    "xid": ["4294967295"],
    "xid8": ["18446744073709551615"],
    "tid": ["(4294967295,65535)"],
    "pg_snapshot": ["10:20:10,14,15"],
    "txid_snapshot": ["10:20:10,14,15"],
    "regclass": ["pg_class", "-"],
    "regtype": ["integer", "timestamp with time zone"],
    "int4range": ["empty", "(,)", "[1,10)", "[,5)"],
    "int8range": ["[-9223372036854775808,0)"],
    "numrange": ["(1.5,2.5]", "empty"],
    "tsrange": ['["2000-01-01 00:00:00",infinity)', "(,)"],
    "tstzrange": ['["2000-01-01 00:00:00+00","2000-01-02 00:00:00+00")'],
    "daterange": ["[2000-01-01,infinity]"],
    "int4multirange": ["{}", "{[1,3),[5,7)}"],
    "datemultirange": ["{[2000-01-01,2000-02-01),[2001-01-01,2001-02-01)}"],
    "integer[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[2:4]={1,2,3}", "[0:1][-1:0]={{1,2},{3,4}}"],
    "text[]": ["{}", '{"",NULL,"NULL","a,b","{}","\\"","\\\\",\u00e4}'],
    "numeric(10,2)[]": ["{1.50,NaN}"],
    "bytea[]": ['{"\\\\x00ff",NULL}'],
    "box[]": ["{(1,1),(0,0);(2,2),(1,1)}"],
    "timestamptz[]": ['{infinity,"2000-01-01 00:00:00+00"}'],
    "json[]": ['{"{\\"a\\": 1}",NULL}'],
    "int4range[]": ['{"[1,3)",empty}'],
    "tt.mood": ["sad", "it's \"ok\"", ""],
    "tt.mood[]": ['{sad,"it\'s \\"ok\\"",NULL,""}'],
    "tt.pos": ["1"],
    "tt.pos[]": ["{1,2}"],
    "tt.many": ["{1,2}"],
    "tt.point3": ['(1,,"a ""q"" b")', "(,,)"],
    "tt.point3[]": ['{"(1,2,x)","(,,)"}'],
    "tt.\"Nested Type\"": ['("(1,2,x)","{1,2}",sad)'],
    "tt.line3": ['(1,2,"dom")'],
    "tt.span": ["[1.5,2.5)", "empty"],
    "tt.span[]": ['{"[1.5,2.5)"}'],
    "tt.mail": ["a@b.c"],
}

# Types and values that came with a later version than 10.
SINCE = {"tt.line3": 11, "tt.pos[]": 11, "xid8": 13, "pg_snapshot": 13, "int4multirange": 14, "datemultirange": 14, "numeric(5,-2)": 15}
SINCE_VALUES = {("numeric", "Infinity"): 14, ("numeric", "-Infinity"): 14, ('"char"', "\\303"): 15}


def known(source, target=None):
    """What servers of these major versions have both. From 14 on a range type is made with its multirange's name."""
    oldest = min(source, target or source)
    without = {kind for kind, since in SINCE.items() if since > oldest}
    if oldest < 12:  # the same number is another text from 12 on, which a comparison of texts calls a difference
        without |= {"real", "double precision", "point"}
    if oldest < 14 <= source:
        without |= {kind for kind in VALUES if kind.startswith("tt.span")}
    return {kind: [v for v in values if SINCE_VALUES.get((kind, v), 0) <= oldest]
            for kind, values in VALUES.items() if kind not in without}


TYPES = """
create schema tt;
create type tt.mood as enum ('sad', 'it''s "ok"', '');
create domain tt.pos as integer check (value > 0) default 7;
create domain tt.many as integer[] check (array_length(value, 1) < 10);
create type tt.point3 as (x integer, y numeric, "label" text);
create domain tt.line3 as tt.point3;
create type tt."Nested Type" as (p tt.point3, l integer[], m tt.mood);
create type tt.span as range (subtype = float8, subtype_diff = float8mi);
create domain tt.mail as text collate "C" check (value ~ '@') not null;
"""


def column(n):
    return f"c{n}"


def create(types=VALUES):
    """One table for each type (so that a failure names it), with a key, and one wide table of all."""
    out = [TYPES if "tt.line3" in types else TYPES.replace("create domain tt.line3 as tt.point3;", "")]
    for n, kind in enumerate(types):
        default = " default 'd@e.f'" if kind == "tt.mail" else ""
        out.append(f'create table tt."T {n}" (id int primary key, "V al" {kind}{default});')
        out.append(f'create table tt.full{n} ("V al" {kind}{default}, n int); alter table tt.full{n} replica identity full;')
    columns = ", ".join(f"{column(n)} {kind}" for n, kind in enumerate(types) if kind != "tt.mail")
    out.append(f"create table tt.wide (id int primary key, {columns});")
    return "\n".join(out)


def insert(cur, first, types=VALUES):
    """Each value of each type as a row; also NULL, and the same rows without a key, twice."""
    for n, (kind, values) in enumerate(types.items()):
        for i, value in enumerate(values):
            cur.execute(f'insert into tt."T {n}" values (%s, %s)', (first + i, value))
            cur.execute(f"insert into tt.full{n} values (%s, 1), (%s, 1)", (value, value))
        if kind != "tt.mail":
            cur.execute(f'insert into tt."T {n}" values (%s, null)', (first + 90,))
            cur.execute(f"insert into tt.full{n} values (null, 1), (null, null)")
    kinds = [k for k in types if k != "tt.mail"]
    cur.execute(f"insert into tt.wide values ({', '.join(['%s'] * (len(kinds) + 1))})",
                [first] + [types[k][0] for k in kinds])


def change(cur, types=VALUES):
    """Each value moves to another row, by key and without one; one of two equal rows goes."""
    for n in range(len(types)):
        cur.execute(f'update tt."T {n}" a set "V al" = b."V al" from tt."T {n}" b where b.id = a.id + 1 and a.id < 50')
        cur.execute(f"update tt.full{n} set n = 2 where ctid = (select min(ctid) from tt.full{n} where n = 1)")
        cur.execute(f"delete from tt.full{n} where ctid = (select max(ctid) from tt.full{n} where n = 1)")


def tables(types=VALUES):
    return [f'tt."T {n}"' for n in range(len(types))] + [f"tt.full{n}" for n in range(len(types))] + ["tt.wide"]
