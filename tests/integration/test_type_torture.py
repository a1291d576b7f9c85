"""Every built-in type with its extreme values, copied and streamed, by key and without one."""

import torture


def test_copied_and_streamed(make_world):
    w = make_world()
    conn = w.source.connect(w.db)
    conn.cursor().execute(torture.create())
    torture.insert(conn.cursor(), 1)
    w.start()
    w.wait(120)
    w.assert_same(*torture.tables())
    torture.insert(conn.cursor(), 100)
    w.wait(120)
    w.assert_same(*torture.tables())
    torture.change(conn.cursor())
    w.wait(120)
    w.assert_same(*torture.tables())
    w.verify()
