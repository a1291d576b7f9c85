import os
import pathlib
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "lib"))

from servers import DEBIAN, SCRIPT, Postgres, programs  # noqa: E402
from world import World  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="all points of the kill tests, a million steps of the models")
    parser.addoption("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="of everything random")


def pytest_ignore_collect(collection_path, config):
    """What runs with --long alone is no skip of the others."""
    return True if collection_path.name == "test_other_versions.py" and not config.getoption("--long") else None


def pytest_report_header(config):
    return f"seed: {config.getoption('--seed')}"


def pytest_terminal_summary(terminalreporter):
    """Leaves the counts for scripts/test, which ends with them."""
    folder = os.environ.get("SIDESPOOL_TEST_DIR")
    if folder and not hasattr(terminalreporter.config, "workerinput"):
        counts = {key: len(terminalreporter.stats.get(key, [])) for key in ("passed", "failed", "error", "skipped")}
        (pathlib.Path(folder) / "pytest.counts").write_text(", ".join(f"{n} {key}" for key, n in counts.items()) + "\n")


@pytest.fixture
def seed(request):
    value = request.config.getoption("--seed")
    print(f"seed {value}")
    return value


@pytest.fixture(scope="session")
def folder():
    """World-readable and short: socket paths have 107 bytes."""
    given = os.environ.get("SIDESPOOL_TEST_DIR")
    base = given or subprocess.run([SCRIPT, "folder", "sst"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    os.makedirs(base, exist_ok=True)
    os.chmod(base, 0o755)
    yield pathlib.Path(base)
    if not given:
        shutil.rmtree(base, ignore_errors=True)


def server(folder, name, **settings):
    path = folder / f"{os.getpid()}-{name}"
    return Postgres(path, **settings).start()


@pytest.fixture(scope="session")
def source_server(folder):
    pg = server(folder, "src")
    yield pg
    pg.remove()


@pytest.fixture(scope="session")
def target_server(folder):
    pg = server(folder, "dst")
    yield pg
    pg.remove()


@pytest.fixture(scope="session")
def server_of(folder, request):
    """A server of a major version as source or target, kept for the session. One that cannot be fetched skips the test."""
    made = {}

    def get(version, role):
        if version == DEBIAN and "SIDESPOOL_PG_BIN" not in os.environ:
            return request.getfixturevalue(f"{role}_server")
        bin_dir, why_not = programs(version)
        if not bin_dir:
            pytest.skip(why_not)
        if (version, role) not in made:
            made[version, role] = server(folder, f"{role}{version}", bin_dir=bin_dir)
        return made[version, role]

    yield get
    for pg in made.values():
        pg.remove()


@pytest.fixture
def own_servers(folder, request):
    """A pair for a test that stops, kills or fills its servers."""
    made = []

    def make(**settings):  # bin_dir: of another version
        pg = server(folder, f"own{len(made)}-{abs(hash(request.node.name)) % 100000}", **settings)
        made.append(pg)
        return pg

    yield make
    for pg in made:
        pg.remove()


@pytest.fixture
def make_world(folder, source_server, target_server, request):
    made = []

    def make(source=None, target=None, **kw):
        path = folder / f"{os.getpid()}-w{World.counter}"
        world = World(path, source or source_server, target or target_server, **kw)
        made.append(world)
        return world

    yield make
    for world in made:
        if request.node.stash.get(FAILED, False):
            print(world.tell())
        world.close()


FAILED = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.stash[FAILED] = True


# systemd-analyze plays the manager, which makes its folder; only root can where systemd has not.
NEED_RUN_SYSTEMD = {"test_verify_is_clean", "test_exposure"}


def pytest_runtest_setup(item):
    if getattr(item, "originalname", None) in NEED_RUN_SYSTEMD and os.geteuid() != 0 and not os.path.isdir("/run/systemd"):
        pytest.skip("systemd-analyze needs /run/systemd, which a system without systemd has not and only root can make")
