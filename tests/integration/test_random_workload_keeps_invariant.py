"""Several writers, several tables, an invariant over them: a reader of the target never sees it broken after the copy."""

import time

from workload import INVARIANT, SCHEMA, TABLES, Watcher, Workload


def test_never_broken(make_world, seed):
    w = make_world()
    w.src(SCHEMA)
    load = Workload(w, seed).start()
    time.sleep(1)
    w.start()
    w.until_state("streaming", "catching_up", timeout=60)
    w.wait()  # the copy has been passed
    assert w.dst(INVARIANT) == [(True,)]
    watcher = Watcher(w).start()
    time.sleep(12)
    versions = watcher.stop()
    load.stop()
    assert versions > 5, "the target hardly moved while it was watched"
    w.wait()
    w.assert_same(*TABLES)
    w.verify()
