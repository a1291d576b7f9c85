"""docs/tutorial-postgres.md, typed as it stands: every block must do what the text says."""

import re
import subprocess

from servers import TOP

TEXT = TOP / "docs" / "tutorial-postgres.md"


def test_followed_literally(folder):
    blocks = re.findall(r"^```sh( fails)?\n(.*?)^```$", TEXT.read_text(), re.M | re.S)
    assert len(blocks) > 10
    script = ["set -u", f"cd '{TOP}'", "trap 'kill $(cat $T/*.pid) 2>/dev/null; for s in source target; do scripts/servers/postgres stop $T/$s immediate; done; rm -rf $T' EXIT"]
    for n, (fails, text) in enumerate(blocks):
        assert "scripts/build\n" not in text or n == 0
        # scripts/build is what the test run itself has done already; building again beside running tests is no step of the story.
        text = text.replace("scripts/setup\nscripts/build\n", "")
        script.append(f"echo '=== block {n}'")
        if fails:
            script.append(f"if ( set -e\n{text}); then echo 'block {n} should have failed'; exit 1; fi")
        else:
            script.append(f"set -e\n{text}set +e")
    script.append("trap - EXIT")
    done = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    out = done.stdout + done.stderr
    assert done.returncode == 0, out[-6000:]
    for words in ("public.visit", "20000", "CUSTOMER 1", "99999.99", "waiting_target", "sidespool_shop", "public.customer"):
        assert words in out, f"{words!r} not in\n{out[-6000:]}"
