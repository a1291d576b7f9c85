"""Wrong files and wrong command lines: each is refused with the sentence and the exit code that stand beside it, to the letter.

tests/golden/config/PROGRAM-*.yaml   read by sidespool-postgres (agent-) or sidespool-applier (applier-), with --check and without
tests/golden/command/*.command       bash, run in a folder that holds tests/golden/command/files; `# applier` in its first line: beside a
                                     running applier, whose target is not there

The .expected beside it: the exit code, then all that was printed (the folder as DIR). A new case, or a sentence that was changed:
SIDESPOOL_GOLDEN=write writes what the programs say now; read it as the person who made the mistake before you commit it.
"""

import difflib
import os
import re
import shutil
import subprocess

import pytest

from servers import TOP
from world import BIN, Process, until

GOLDEN = TOP / "tests" / "golden"
CONFIGS = sorted((GOLDEN / "config").glob("*.yaml"))
COMMANDS = sorted((GOLDEN / "command").glob("*.command"))
PROGRAMS = {"agent": "sidespool-postgres", "applier": "sidespool-applier"}
# For root a file of mode 000 is readable like any other, unless it gives that right up.
MORTAL = "setpriv --bounding-set=-dac_override,-dac_read_search" if os.geteuid() == 0 else ""


@pytest.fixture
def place(folder, request):
    """A short path: sockets have 107 bytes."""
    path = folder / f"{os.getpid()}-g{abs(hash(request.node.name)) % 10**8}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def run(argv, place):
    """Exit code and all output, as bytes; nothing of the caller's PostgreSQL, languages or systemd decides."""
    keep = {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS") or k == "LD_LIBRARY_PATH"}
    env = {**keep, "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(place), "DIR": str(place), "MORTAL": MORTAL, "LC_ALL": "C.UTF-8"}
    done = subprocess.run([str(a) for a in argv], cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60)
    return done.returncode, done.stdout


def told(code, output, place):
    text = output.decode("utf-8", "backslashreplace").replace(str(place), "DIR")
    text = re.sub(r"^time=\S+ ", "time=NOW ", re.sub(r"\(uid \d+\)", "(uid N)", text), flags=re.M)
    return f"exit {code}\n{text}"


def compare(case, got):
    path = case.with_suffix(".expected")
    if os.environ.get("SIDESPOOL_GOLDEN") == "write":
        path.write_text(got)
    wanted = path.read_text() if path.exists() else ""
    if got != wanted:
        diff = difflib.unified_diff(wanted.splitlines(), got.splitlines(), f"{path.relative_to(TOP)} (wanted)", "what was said", lineterm="")
        pytest.fail(f"{case.name}\n" + "\n".join(diff), pytrace=False)


def test_there_are_cases():
    assert len(CONFIGS) >= 60 and len(COMMANDS) >= 30
    orphans = set(GOLDEN.glob("co*/*.expected")) - {case.with_suffix(".expected") for case in (*CONFIGS, *COMMANDS)}
    assert not orphans, "expected by no case"


@pytest.mark.parametrize("case", CONFIGS, ids=lambda case: case.stem)
def test_configuration(case, place):
    program = PROGRAMS[case.stem.split("-")[0]]
    shutil.copy(case, place)
    code, output = run((program, "--config", case.name, "--check"), place)
    compare(case, told(code, output, place))
    assert code == 78
    # The daemon itself says the same sentence, in a line of its log, and ends.
    code, log = run((program, "--config", case.name), place)
    line = re.fullmatch(rb'.*event=configuration_refused.* error="((?:[^"\\]|\\.)*)".*\n', log)
    assert code == 78 and line, log
    sentence = re.sub(rb"\\([\"\\])", rb"\1", line[1])
    assert output.startswith(b"FAIL  configuration: " + sentence), (output, log)


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case.stem)
def test_command(case, place):
    for file in (GOLDEN / "command" / "files").iterdir():
        (place / file.name).write_text(file.read_text().replace("DIR", str(place)))
    shutil.copy(case, place / "script")
    beside = case.read_bytes().startswith(b"# applier")
    applier = None
    if beside:
        (place / "spool").mkdir()
        applier = Process([BIN / "sidespool-applier", "--config", place / "applier.yaml"], place / "applier.log")
    try:
        if beside:
            until("the applier listens", lambda: (place / "applier.sock").exists(), 20, 0.05, applier.tail)
        code, output = run(("bash", place / "script"), place)
    finally:
        if applier:
            applier.stop()
            applier.end()
    compare(case, told(code, output, place))
