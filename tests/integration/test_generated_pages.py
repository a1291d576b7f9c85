"""docs/configuration.md and docs/errors.md are what the programs' own tables say."""

import os
import subprocess

import pytest

from servers import TOP
from world import BIN


@pytest.mark.parametrize("page", ["configuration", "errors"])
def test_page_is_current(page):
    made = subprocess.run([TOP / "scripts" / "docs", "--print", page], capture_output=True, text=True, timeout=30,
                          env={**os.environ, "SIDESPOOL_BIN": str(BIN)})
    assert made.returncode == 0, made.stderr
    assert (TOP / "docs" / f"{page}.md").read_text() == made.stdout, "regenerate it: scripts/docs"
