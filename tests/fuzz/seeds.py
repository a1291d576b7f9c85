#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets: what the tests' captured streams hold, and hand-made ones for what those do not.

usage: tests/fuzz/seeds.py FOLDER      (writes FOLDER/TARGET/NAME; scripts/fuzz --merge then keeps in tests/fuzz/corpus what adds coverage)
"""
import pathlib
import struct
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]

# ---- pgoutput: settings, then how, length (2), message (tests/fuzz/pgoutput_parts/pgoutput_world.h) ----------------------
VIA_ROOT, SMALL, PATTERNS, RESUMED = 1, 2, 4, 8
PLAIN, RAW, BUSY, FAILS = 0, 1, 2, 3
AGREES, GONE, GENERATED, RENAMED, OTHER_TYPE, KEY_GENERATED, EMPTY, BROKEN = (i << 2 for i in range(8))
PARTITION = 32
NO_RECORD, KNOWN, OTHER_NAME, LEFT = (i << 6 for i in range(4))


def text(value):
    return value.encode() + b"\0"


def begin(lsn, xid=7):
    return b"B" + struct.pack(">QqI", lsn, 1, xid)


def commit(lsn, end=None):
    return b"C\0" + struct.pack(">QQq", lsn, lsn + 48 if end is None else end, 1)


def relation(relid, name="t", identity="d", columns=(("id", 23, True), ("v", 25, False)), ns="public"):
    out = b"R" + struct.pack(">I", relid) + text(ns) + text(name) + identity.encode() + struct.pack(">H", len(columns))
    for column, oid, key in columns:
        out += bytes([key]) + text(column) + struct.pack(">Ii", oid, -1)
    return out


def row(*cells):
    out = struct.pack(">H", len(cells))
    for cell in cells:
        out += b"n" if cell is None else b"u" if cell is ... else b"t" + struct.pack(">I", len(cell)) + cell.encode()
    return out


def change(kind, relid, old=None, new=None):
    out = kind.encode() + struct.pack(">I", relid)
    if old:
        out += old[0].encode() + row(*old[1:])
    return out + (b"N" + row(*new) if new is not None else b"")


def truncate(*relids, flags=0):
    return b"T" + struct.pack(">IB", len(relids), flags) + b"".join(struct.pack(">I", r) for r in relids)


def keepalive(end, reply=0):
    return b"k" + struct.pack(">QqB", end, 1, reply)


def session(settings, *messages):
    out = bytes([settings])
    for message in messages:
        how, body = message if isinstance(message, tuple) else (PLAIN, message)
        out += struct.pack(">BH", how, len(body)) + body
    return out


def pgoutput():
    for path in sorted((TOP / "tests/golden/pgoutput").glob("*.hex")):
        messages = [bytes.fromhex(line) for line in path.read_text().split()]
        for settings in (0, VIA_ROOT):
            yield path.stem + str(settings), session(settings, *(m for m in messages if len(m) < 2000))
    whole = (begin(0x2000), relation(100), change("I", 100, new=("1", "x")), change("U", 100, new=("1", ...)),
             change("U", 100, ("K", "1", None), ("2", ...)), change("D", 100, ("K", "2", None)), truncate(100, flags=3), commit(0x2000))
    yield "whole", session(0, *whole)
    for how in range(256):
        if how & 3 != RAW:
            yield f"how{how}", session(how % 16, relation(1, "root", "d"), *((how, m) for m in whole))
    yield "busy_idle", session(0, (BUSY, begin(0x10)), (BUSY, commit(0x10)), (RAW, keepalive(0x100)), (RAW, keepalive(0x90, 1)))
    yield "keepalive_fails", session(0, (RAW, keepalive(0x100, 1)), (FAILS, b""), (RAW, b"k"), (RAW, b"x"), (RAW, b""))
    # As a keepalive is raw, a failing one cannot be had but by 'w' and 'k' in one: the feedback's failure is HOW_FAILS alone.
    full = (("id", 23, True), ("v", 25, True))
    yield "full", session(0, begin(0x2000), relation(100, "t", "f", full), change("U", 100, ("O", "1", "a"), ("1", ...)),
                          change("D", 100, ("O", "1", None)), change("D", 100, ("K", "1", None)), commit(0x2000))
    yield "whole_row_under_key", session(0, begin(0x2000), relation(100), change("D", 100, ("O", "1", "a")))
    yield "key_without_value", session(0, begin(0x2000), relation(100), change("D", 100, ("K", None, None)))
    nothing = (("id", 23, False), ("v", 25, False))
    yield "no_key", session(0, begin(0x2000), relation(100, "t", "n", nothing), change("U", 100, ("K", "1", None), ("1", "2")))
    yield "count", session(0, begin(0x2000), relation(100), change("I", 100, new=("1",)))
    yield "count_old", session(0, begin(0x2000), relation(100), change("D", 100, ("K", "1")))
    yield "unknown_relation", session(0, begin(0x2000), change("I", 100, new=("1",)))
    yield "unknown_truncate", session(0, begin(0x2000), relation(100), truncate(100, 101))
    yield "outside", session(0, relation(100), change("I", 100, new=("1", "2")))
    yield "begin_twice", session(0, begin(0x2000), begin(0x2000))
    yield "commit_other", session(0, begin(0x2000), commit(0x2001))
    yield "commit_outside", session(0, commit(0x2000))
    yield "known", session(RESUMED, begin(0x500), relation(100), change("I", 100, new=("1", "x")), truncate(100), commit(0x500), begin(0x2000), commit(0x2000))
    yield "over_resume", session(RESUMED, begin(0x500), commit(0x500, 0x3000))
    yield "over_resume2", session(RESUMED, begin(0x2000), commit(0x2000, 0x20))
    yield "small", session(SMALL, relation(100), begin(0x2000), change("I", 100, new=("1", "x" * 200)))
    yield "small_unknown", session(SMALL, begin(0x2000), change("I", 100, new=("1", "x" * 200)))
    yield "small_short", session(SMALL, b"I" * 97)
    many = tuple((f"c{i}", 25, i == 3) for i in range(100))
    yield "wide", session(0, begin(0x2000), relation(100, columns=many), change("I", 100, new=["v"] * 100), relation(100), commit(0x2000))
    yield "many", session(0, begin(0x2000), *(relation(i) for i in range(100, 150)), truncate(*range(100, 150)), commit(0x2000))
    yield "catalog_ns", session(0, begin(0x2000), relation(100, ns=""), b"Y" + struct.pack(">I", 16400) + text("") + text('mo"od'),
                                b"Y" + struct.pack(">I", 16400) + text("public") + text("mood"), relation(101, columns=(("m", 16400, True), ("n", 16401, False))),
                                relation(102, columns=()), commit(0x2000))
    yield "dropped_type", session(0, b"Y" + struct.pack(">I", 16400) + text("public") + text("mood"),
                                  (GONE, relation(101, columns=(("m", 16400, True), ("n", 16401, False)))))
    yield "origin", session(0, b"O" + struct.pack(">Q", 3) + text("other"), begin(0x20), b"M\1" + struct.pack(">Q", 3) + text("prefix") + struct.pack(">I", 3) + b"abc", commit(0x20))
    yield "streamed", session(0, b"S" + struct.pack(">IB", 7, 1), b"E")
    yield "streamed_end", session(0, b"E")
    yield "prepared", session(0, b"b" + struct.pack(">QQqI", 1, 2, 3, 7) + text("gid"))
    for other, key in (("d", True), ("f", True), ("d", False)):
        for identity in "df":
            root = relation(10, "root", other, (("id", 23, key), ("v", 25, not key)), ns="root")
            yield f"partition_{other}{key}{identity}", session(VIA_ROOT | PATTERNS, begin(0x2000), root, (PARTITION, relation(100, "leaf", identity)), commit(0x2000))
    yield "patterns", session(PATTERNS, begin(0x2000), relation(1, "t", ns="other"), relation(2, "not_this"), change("I", 1, new=("1", "2")),
                              (PARTITION, relation(3, "leaf", ns="other")), truncate(1, 2), truncate(1, 3), commit(0x2000))
    for record in (KNOWN, OTHER_NAME, LEFT):
        yield f"record{record}", session(PATTERNS, begin(0x1000), (record, relation(5, ns="other")), change("I", 5, new=("1", "2")), commit(0x1000),
                                         begin(0x3000), change("I", 5, new=("1", "2")), commit(0x3000), (record, relation(6)))
    yield "long_name", session(0, relation(100, "t" * 256))
    yield "long_ns", session(0, begin(0x20), relation(100, ns="n" * 300))
    yield "not_utf8", session(0, begin(0x20), b"R\0\0\0\x64p\xfc\0t\xe4\0d\0\0", change("I", 100, new=("1",)))
    yield "selected_changes", session(PATTERNS, relation(5, "t"), relation(5, "not_t"), relation(5, "t"))


# ---- records: settings, then the record -----------------------------------------------------------------------------------
def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, str):
        return field(number, value.encode())
    return varint(number << 3) + varint(value)


def fixed(number, value):
    return varint(number << 3 | 1) + struct.pack("<Q", value)


def cells(*values):
    return b"".join(b"\0" if v is None else varint(len(v) + 1) + v for v in values)


def record_row(kinds, *values):
    return field(1, bytes(kinds)) + b"".join(field(2, v) for v in values)


def one_of_each():
    table = field(1, "public") + field(2, "t") + field(3, 10) + field(4, 100)
    yield "begin", field(1, field(1, 4) + field(2, 77))
    yield "insert", field(2, fixed(1, 99) + field(2, 1) + field(4, record_row([1, 2, 3], b"a")))
    yield "update", field(2, fixed(1, 99) + field(2, 2) + field(3, record_row([1, 3], b"k")) + field(4, record_row([1, 4, 5], b"\xff\xfe")))
    yield "delete", field(2, fixed(1, 99) + field(2, 3) + field(3, record_row([1], b"")))
    yield "empty_rows", field(2, fixed(1, 99) + field(2, 2) + field(3, b"") + field(4, b""))
    yield "commit", field(3, field(1, "0/16B3748") + field(2, 4))
    yield "truncate", field(4, field(1, struct.pack("<QQ", 1, 2)) + field(2, 1) + field(3, 1))
    yield "piece", field(5, field(1, 1) + field(2, 3) + field(3, b"data") + field(4, 1))
    yield "idle", field(6, field(1, "0/1") + field(2, 9))
    yield "mark", field(7, field(1, "id") + field(2, "wait") + field(3, "0/1"))
    yield "copy_begin", field(8, field(1, 1) + field(2, "r") + field(3, table) + field(4, "0/1") + field(5, 2) + field(6, 3) + field(7, 4))
    yield "copy_end", field(9, field(1, 1) + field(2, "r") + field(3, 1) + field(4, "why"))
    rows = cells(b"1", b"a", b"x", None, b"b", b"y")
    yield "copy_rows", field(10, field(1, 1) + fixed(2, 99) + field(3, 2) + field(4, rows))
    yield "copy_rows_2", field(10, field(1, 1) + fixed(2, 99) + field(3, 3) + field(4, rows))
    yield "copy_rows_part", field(10, field(1, 1) + fixed(2, 99) + field(4, b"\xf0part") + field(5, 1))
    yield "copy_rows_bad", field(10, field(1, 1) + fixed(2, 99) + field(3, 1) + field(4, b"\xf0part"))
    yield "copy_table", field(11, field(1, 1) + fixed(2, 99) + field(3, "public") + field(4, "t") + field(5, 2) + field(6, 30))
    yield "object", field(12, b"".join(field(n, f"f{n}") for n in range(2, 9)) + field(1, 1) + field(9, 1))
    yield "gap", field(13, field(1, 2) + field(2, "lost") + field(3, "0/1"))
    yield "table_gap", field(14, field(1, table) + field(2, "away"))


def schema(identity=1, *more):
    columns = [field(1, "id") + field(2, "integer") + field(3, "int") + field(5, 1) + field(8, 1), field(1, "v") + field(2, "text") + field(3, "text") + field(4, 1)]
    return b"".join([fixed(1, 0), field(2, "postgres"), field(3, "public"), field(4, "t"), *(field(5, c) for c in columns), field(6, identity), field(7, "table"), *more])


def record():
    as_record, as_schema, as_sealed, as_cells, as_pieces, small, with_schema = 0, 1, 2, 3, 0x3F, 0x80, 0x40
    for name, body in one_of_each():
        for settings in (as_record, as_record | with_schema, as_record | small):
            yield f"{name}{settings}", bytes([settings]) + body
    bad = {
        "none": b"", "cut": b"\x0a\x05\x08", "unknown_record": field(15, b""), "unknown_in": field(1, field(9, 1)), "unknown_in_change": field(2, field(9, 1)),
        "unknown_in_row": field(2, fixed(1, 9) + field(2, 1) + field(4, record_row([2]) + field(7, 1))), "unknown_in_table": field(14, field(1, field(1, "a") + field(9, 1))),
        "op": field(2, fixed(1, 9) + field(2, 7)), "no_op": field(2, fixed(1, 9)), "insert_before": field(2, field(2, 1) + field(3, record_row([2]))),
        "delete_after": field(2, field(2, 3) + field(4, record_row([2]))), "kind": field(2, field(2, 1) + field(4, record_row([9]))),
        "values": field(2, field(2, 1) + field(4, record_row([1, 1], b"a"))), "gap_no_table": field(14, field(2, "away")),
        "gap_no_name": field(14, field(1, field(1, "public"))), "large": field(5, field(3, b"x" * 3000)), "many": field(14, field(1, b"") * 300),
        "wide": field(2, fixed(1, 99) + field(2, 1) + field(4, record_row([2] * 400))),
    }
    for name, body in bad.items():
        for settings in (as_record, as_record | small):
            yield f"bad_{name}{settings}", bytes([settings]) + body
    for mode in (as_schema, as_sealed, as_sealed | small):
        yield f"schema{mode}", bytes([mode]) + schema()
        yield f"schema_identity{mode}", bytes([mode]) + schema(9)
        yield f"schema_unknown{mode}", bytes([mode]) + schema(2, field(12, 1))
        yield f"schema_large{mode}", bytes([mode]) + schema(2, *(field(5, field(1, "c")) for _ in range(60)))
        yield f"schema_none{mode}", bytes([mode])
        yield f"schema_cut{mode}", bytes([mode]) + schema()[:-3]
    for i, body in enumerate((cells(b"", None, b"abc"), b"\xff" * 11, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", b"\x81\x00", cells(b"x" * 200), b"\x05ab")):
        yield f"cells{i}", bytes([as_cells]) + body
    for left in (0, 1, 2, 9):
        yield f"pieces{left}", bytes([as_pieces, left, 2, 3, 0, 255, 1, 0, 1, 9, 0, 251, 0, 1, 252, 7, 5, 0, 0, 6, 0, 0])
    yield "pieces_small", bytes([as_pieces, 15, 4, 0] + [0, 0, 5] * 4)


# ---- frames: what it is, then that ----------------------------------------------------------------------------------------
def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def stored(payload):
    """A zstd frame (RFC 8878) with one raw block."""
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(payload)]) + struct.pack("<I", len(payload) << 3 | 1)[:3] + payload


def frame(payload, first=42, count=1, reader=1, raw=None, packed=None, magic=b"SSFR"):
    body = stored(payload) if packed is None else packed
    head = magic + struct.pack("<HHQIIIII", 1, reader, first, count, len(payload) if raw is None else raw, len(body), 0, 7)
    return head + struct.pack("<I", crc32c(head + body)) + body


def frames():
    is_frame, is_forged, is_payload, is_records = range(4)
    records = [body for _, body in one_of_each()]
    payload = varint(len(records[0])) + records[0]
    yield "records", bytes([is_records]) + b"".join(struct.pack(">H", len(r)) + r for r in records)
    yield "long_record", bytes([is_records]) + struct.pack(">H", 300) + b"x" * 300
    yield "no_records", bytes([is_records])
    yield "payload", bytes([is_payload]) + payload
    yield "payload_none", bytes([is_payload])
    yield "payload_bad", bytes([is_payload]) + b"\xff\xff\xff\xff\xff\xff"
    yield "payload_short", bytes([is_payload]) + b"\x05ab"
    cases = {"good": frame(payload), "magic": frame(payload, magic=b"SSFX"), "reader": frame(payload, reader=2), "first": frame(payload, first=43), "count0": frame(payload, count=0),
             "count": frame(payload, count=2), "count_most": frame(payload, count=99), "raw": frame(payload, raw=len(payload) + 1), "raw_most": frame(payload, raw=0x7FFFFFFF),
             "raw_less": frame(payload, raw=len(payload) - 1), "zstd": frame(payload, packed=b"nonsense"), "shape": frame(b"\x05ab"), "varint": frame(b"\xff" * 6, count=1)}
    for name, body in cases.items():
        yield "frame_" + name, bytes([is_frame]) + body
        yield "forged_" + name, bytes([is_forged]) + body
    for size in (0, 3, 39, 40):
        yield f"frame_cut{size}", bytes([is_frame]) + frame(payload)[:size]
        yield f"forged_cut{size}", bytes([is_forged]) + frame(payload)[:size]
    flipped = bytearray(frame(payload))
    flipped[-1] ^= 1
    yield "frame_crc", bytes([is_frame]) + flipped


# ---- configuration: which table, then the file ----------------------------------------------------------------------------
def config():
    agent, applier, every = range(3)
    yield "agent", bytes([agent]) + (TOP / "docs/examples/agent.yaml").read_bytes()
    yield "applier", bytes([applier]) + (TOP / "docs/examples/applier.yaml").read_bytes()
    pg = 'postgres: {dsn: "host=/tmp dbname=o"}'
    for name, more in {"least": "", "readers": "copy: {readers: 33}", "size": "spool: {max_size: 1MiB}", "segment": "spool: {segment_size: 1GiB, max_size: 1GiB}", "path": "spool: {path: here}",
                       "message": "max_message: 1B", "pattern": 'tables: {include: ["public.*"], exclude: [""]}', "mask": "mask: {}", "near": "on_gpa: halt", "twice": "source: a",
                       "gap": "on_gap: resync"}.items():
        yield "agent_" + name, bytes([agent]) + f"source: orders\n{pg}\n{more}\n".encode()
    yield "agent_name", bytes([agent]) + f"source: Or/ders\n{pg}\n".encode()
    target = "target: {postgres: {dsn: \"host=127.0.0.1\"}}"
    for name, more in {"two": f"  - {{source: b, {target}}}", "same": f"  - {{source: a, name: b, {target}}}", "named_twice": f"  - {{source: b, name: a, {target}}}", "mysql": "  - {source: b, target: {mysql: {}}}",
                       "no_target": "  - {source: b, target: {}}", "deletes": f"  - {{source: b, deletes: ignore, {target}}}", "socket": "control: {socket: /" + "x" * 120 + "}",
                       "bad_name": f"  - {{source: b, name: .b, {target}}}"}.items():
        yield "applier_" + name, bytes([applier]) + f"routes:\n  - {{source: a, adopt: true, {target}}}\n{more}\n".encode()
    yield "applier_none", bytes([applier]) + b"routes: []\n"
    every_good = b'text: a\nflag: true\nnumber: 3\nsize: 64MiB\nduration: 24h\nchoice: three\nwords: [a, b]\nblock: {number: 1, any: -4}\nlist: [{number: 1}, {number: 2, words: [x]}]\n'
    yield "every", bytes([every]) + every_good
    bad = ["", "# nothing\n", "text: [a]", "text: {a: b}", "text:", "text: ~", 'text: ""', 'text: "a\\0b"', "text: a\ntext: b", "text: &a b", "text: *a", "text: !!str a", "--- {text: a}\n--- {text: b}",
           "text: a\nlater: 1", "text: a\nnumber: 10", "text: a\nnumber: x", "text: a\nnumber: 99999999999999999999", "text: a\nsize: 1", "text: a\nsize: 9TiB", "text: a\nsize: 99999999999999999999GiB",
           "text: a\nsize: 5XB", "text: a\nduration: 1ms", "text: a\nduration: 0", "text: a\nduration: 99999999999999999d", "text: a\nduration: 5", "text: a\nchoice: two", "text: a\nchoice: four", "text: a\nflag: yes",
           "text: a\nblock: 1", "text: a\nblock: {}", "text: a\nblock:", "text: a\nlist: {}", "text: a\nlist: [1]", "text: a\nlist: [{any: 1}]", "text: a\nwords: a", "text: a\nwords: [[a]]", "text: a\nwords: [~]",
           "text: a\nunknown_key_here: 1", "text: a\nnubmer: 1", "text: a\n[a]: 1", "text: a\n? {a: b}\n: 1", "- a", "a", "text: 'a", "text: a\n\tnumber: 1", "text: \x01", "text: {a: b", "%YAML 9.9\n---\ntext: a",
           "text: a\nblock: {number: 40}", "text: a\nlist: [{number: 1, number: 2}]"]
    for i, body in enumerate(bad):
        yield f"bad{i}", bytes([every]) + body.encode()
    for i, body in enumerate((b"text: \xff", b"\xef\xbb\xbftext: a\n", b"text: \xed\xa0\x80", b"text: \xf0\x9f\x90\x98", b"\xfe\xff\0t\0e", b"text: \xc2\x85 a", b"text: \xe2\x82")):
        yield f"bytes{i}", bytes([every]) + body


def copytext():
    from_cells = 0x80
    for i, (columns, line) in enumerate(((3, b"1\t\\N\tabc\n"), (1, b"\\b\\f\\n\\r\\t\\v\\\\\n"), (1, b"\\.\n"), (2, b"a\n"), (1, b"a\tb\n"), (0, b"\n"), (0, b"x"), (2, b"\t"), (1, b"\\"), (1, b"\\x"), (4, b"a\tb\tc\td"))):
        yield f"row{i}", bytes([columns, 3]) + line
    for i, (columns, body) in enumerate(((3, cells(b"1", None, b"a\tb\n\\c\r")), (2, cells(b"x" * 200, b"")), (1, b"\xff" * 10), (1, b"\x80\x00"), (0, b"a"), (2, cells(b"1"))) ):
        yield f"cells{i}", bytes([from_cells | columns, 2]) + body


def server_message():
    for i, (room, state, quote, before, behind) in enumerate(((200, b"23505", 0, "duplicate key ", " in the table"), (10, b"22P02", 1, "invalid input ", ""), (60, b"42601", 2, "Fehler: ", "\nzweite"), (200, b"XX000", 3, "x\r", "«more»"),
                                                              (200, b"P0001", 4, "y", "'z'"), (0, b"42P01", 0, "relation ", " does not exist"))):
        yield f"message{i}", bytes([room]) + state + bytes([quote, len(before.encode())]) + before.encode() + behind.encode()


def main():
    top = pathlib.Path(sys.argv[1])
    for name, seeds in {"pgoutput": pgoutput, "record": record, "frame": frames, "config": config, "copytext": copytext, "server_message": server_message}.items():
        folder = top / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, body in seeds():
            (folder / seed).write_bytes(body)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) == 2 else 2)
    main()
