"""What a run costs: wall time, CPU seconds and the largest RssAnon of named processes and all below them."""

import os
import pathlib
import statistics
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")


def stat(pid):
    """(parent, CPU ticks of it and of children it has waited for), or None when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), sum(map(int, fields[11:15]))


def tree(pid):
    """pid and all its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := stat(entry)):
            parents.setdefault(found[0], []).append(int(entry))
    todo, found = [pid], []
    while todo:
        at = todo.pop()
        found.append(at)
        todo += parents.get(at, [])
    return found


def cpu(pid):
    """CPU seconds of a process and of everything below it."""
    return sum(found[1] for found in map(stat, tree(pid)) if found) / TICK


def rss_anon(pid):
    """MiB of anonymous memory of one process, 0 when it is gone."""
    try:
        for row in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if row.startswith("RssAnon:"):
                return int(row.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0.0


class Meter:
    """with Meter(agent=pid, …) as meter: the work. Afterwards meter.seconds, meter.cores[name], meter.rss[name].

    rss is that of the largest single process below the name, looked at twenty times a second; a postmaster's shared
    buffers are no anonymous memory, so they do not count."""

    def __init__(self, **pids):
        self.pids = pids
        self.rss = dict.fromkeys(pids, 0.0)
        self.cores, self.cpu = {}, {}
        self.seconds = None
        self._end = threading.Event()

    def add(self, **pids):
        """Processes that were not there at the start: all of their CPU counts."""
        for name, pid in pids.items():
            self.pids[name] = pid
            self.rss.setdefault(name, 0.0)
            self._first[name] = 0.0

    def __enter__(self):
        self._first = {name: cpu(pid) for name, pid in self.pids.items()}
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._began = time.monotonic()
        self._watch.start()
        return self

    def _look(self):
        while not self._end.wait(0.05):
            for name, pid in list(self.pids.items()):
                self.rss[name] = max(self.rss[name], *map(rss_anon, tree(pid)), 0.0)

    def stop(self, seconds=None):
        """Ends the measure before the block does; `seconds` where a tool has clocked itself."""
        if self.seconds is None:
            self.seconds = seconds if seconds is not None else time.monotonic() - self._began
            elapsed = time.monotonic() - self._began
            for name, pid in self.pids.items():
                self.cpu[name] = max(0.0, cpu(pid) - self._first[name])
                self.cores[name] = self.cpu[name] / elapsed
            self._end.set()
            self._watch.join()

    def __exit__(self, *_):
        self.stop()


def median(runs):
    """The run with the median time, so that its cores and memory belong to it."""
    return sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]


def spread(runs):
    values = [run.seconds for run in runs]
    return (max(values) - min(values)) / statistics.median(values)
