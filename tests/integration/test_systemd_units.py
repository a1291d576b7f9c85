"""The units as installed: clean for systemd, hardened, and pointing at the programs that were installed with them."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SIDESPOOL_BIN", TOP / "build" / "release" / "bin"))
UNITS = ("sidespool-postgres@.service", "sidespool-applier.service")
LIMIT = 2.0


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A DESTDIR with the whole install under /usr, and what the units name from outside."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    folder = tmp_path_factory.mktemp("root")
    done = subprocess.run(["cmake", "--install", str(BIN.parent), "--prefix", "/usr"], capture_output=True, text=True,
                          env={**os.environ, "DESTDIR": str(folder)}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    # `verify --root` looks for the targets that units name; a real root has them from systemd itself.
    theirs = folder / "usr/lib/systemd/system"
    for path in pathlib.Path("/lib/systemd/system").glob("*.target"):
        if not (theirs / path.name).exists():
            shutil.copy(path, theirs / path.name)
    for name in ("-.slice", "system.slice", "user.slice"):
        source = pathlib.Path("/lib/systemd/system") / name
        if source.exists():
            shutil.copy(source, theirs / name)
    return folder


def unit(root, name):
    return root / "usr/lib/systemd/system" / name


def test_everything_is_installed(root):
    for program in ("sidespool", "sidespool-applier", "sidespool-postgres"):
        assert os.access(root / "usr/bin" / program, os.X_OK), program
    for name in UNITS:
        text = unit(root, name).read_text()
        assert "@" not in text.replace("sidespool-postgres@", "").replace("@system-service", "").replace(
            "@privileged", "").replace("@resources", ""), text
        program = re.search(r"^ExecStart=(\S+)", text, re.M).group(1)
        assert (root / program.lstrip("/")).exists(), program
    assert "sidespool" in (root / "usr/lib/sysusers.d/sidespool.conf").read_text()
    assert "/run/sidespool" in (root / "usr/lib/tmpfiles.d/sidespool.conf").read_text()
    assert any(path.name == "architecture.md" for path in (root / "usr/share/doc").rglob("*.md"))


def test_other_prefixes(tmp_path):
    done = subprocess.run(["cmake", "--install", str(BIN.parent), "--prefix", "/opt/side"], capture_output=True, text=True,
                          env={**os.environ, "DESTDIR": str(tmp_path)}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "opt/side/lib/systemd/system/sidespool-applier.service").read_text()
    assert "ExecStart=/opt/side/bin/sidespool-applier " in text


@pytest.mark.parametrize("name", UNITS)
def test_verify_is_clean(root, name):
    code, text = run("systemd-analyze", "verify", f"--root={root}", "--man=no", name.replace("@.", "@orders."))
    ours = [line for line in text.splitlines() if "sidespool" in line or "Failed" in line]
    assert code == 0 and not ours, text


@pytest.mark.parametrize("name", UNITS)
def test_exposure(root, name):
    code, text = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit(root, name))
    found = re.search(r"Overall exposure level for .*?: ([0-9.]+)", text)
    assert found, f"{code}: {text}"
    assert float(found.group(1)) <= LIMIT, text


def test_configuration_errors_are_not_retried(root):
    for name in UNITS:
        text = unit(root, name).read_text()
        assert re.search(r"^RestartPreventExitStatus=.*\b78\b", text, re.M) and "Type=notify" in text and "WatchdogSec=" in text
