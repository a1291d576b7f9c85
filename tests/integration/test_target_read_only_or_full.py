"""A target that is read-only or out of disk: the route waits, says so, and goes on by itself."""

import subprocess

import pytest

from world import until


def test_read_only(make_world, own_servers):
    target = own_servers()
    w = make_world(target=target)
    w.src("create table t(id int primary key, v text)")
    w.start()
    w.wait()
    target.sql(f"alter database {w.db} set default_transaction_read_only = on")
    target.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()", w.db)
    w.src("insert into t values (1, 'a')")
    until("the reason names it", lambda: w.state() == "waiting_target" and "read-only" in w.route()["reason"], 30, 0.2, w.tell)
    target.sql(f"set default_transaction_read_only = off; alter database {w.db} reset default_transaction_read_only")
    w.wait()
    w.assert_same("t")


def test_out_of_disk(make_world, own_servers, folder):
    if subprocess.run(["id", "-u"], capture_output=True, text=True).stdout.strip() != "0":
        pytest.skip("mounting a tmpfs for a full disk needs root")
    target = own_servers()
    small = folder / f"small-{target.port}"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small]).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        subprocess.run(["chown", "--reference", target.folder, small], check=True)
        target.sql(f"create tablespace small location '{small}'")
        w = make_world(target=target)
        target.sql(f"alter database {w.db} set default_tablespace = small")
        w.src("create table t(id int primary key, pad text)")
        w.start()
        w.wait()
        w.src("insert into t select i, repeat(md5(i::text), 8) from generate_series(1, 60000) i")
        until("the reason names it", lambda: w.state() == "waiting_target" and "disk is full" in w.route()["reason"], 90, 0.2, w.tell)
        subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
        w.wait(90)
        w.assert_same("t")
        w.close()
    finally:
        target.stop("immediate")
        subprocess.run(["umount", "-l", small], check=True)
        until("unmounted", lambda: not small.is_mount(), 20)
