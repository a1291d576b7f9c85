"""docs/errors.md is what `sidespool explain --markdown` prints, so that no code is missing there."""

import os
import pathlib
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SIDESPOOL_BIN", TOP / "build" / "release" / "bin"))


def test_errors_page_is_current():
    printed = subprocess.run([BIN / "sidespool", "explain", "--markdown"], capture_output=True, text=True, timeout=20)
    assert printed.returncode == 0, printed.stderr
    page = (TOP / "docs" / "errors.md").read_text()
    assert page == printed.stdout, "regenerate it: sidespool explain --markdown > docs/errors.md"
