"""A verify holds a snapshot of the source: it is given up when the route is paused, and when nobody waits for it any more."""

import subprocess
import time

from world import BIN, until


def test_pause_and_a_client_that_goes(make_world):
    w = make_world()
    w.src("create table t(id int primary key); insert into t select generate_series(1, 100)")
    w.start()
    w.wait()
    held = w.source.connect(w.db, autocommit=False)  # the snapshot has to wait for this transaction
    held.cursor().execute("insert into t values (1000)")

    def verify():
        return subprocess.Popen([str(BIN / "sidespool"), "verify", "--config", str(w.applier_file), "--route", "shop"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = verify()
    time.sleep(2)
    assert first.poll() is None
    w.cli("pause", "--route", "shop", check=0)
    out, err = first.communicate(timeout=20)
    assert first.returncode == 75 and "paused" in err, (first.returncode, out, err)
    w.cli("resume", "--route", "shop", check=0)

    second = verify()
    time.sleep(2)
    assert second.poll() is None
    second.kill()
    second.communicate()
    time.sleep(2)
    third = verify()  # is not refused because the one that was left is still running in the route
    time.sleep(2)
    held.commit()
    out, err = third.communicate(timeout=60)
    assert "another verify of route" not in err, err
    until("a verify comes to its end", lambda: w.cli("verify", "--route", "shop").returncode == 0, 30, 0.5, w.tell)
