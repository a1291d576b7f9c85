"""The table that a run ends with."""

import json
import os
import pathlib
import platform


def machine():
    """What the figures belong to."""
    model = next((row.split(":")[1].strip() for row in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if row.startswith("model name")), platform.processor() or "unknown processor")
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    return f"{os.cpu_count()} cores {model}, {memory:.0f} GiB, Linux {platform.release()}"


def number(value):
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


class Report:
    """Rows of one scenario after another. ratio > 1: sidespool is faster."""

    def __init__(self):
        self.rows = []
        self.notes = []

    def pair(self, scenario, amount, unit, ours, native, runs=None):
        """ours, native: meter.Meter of the median run; rate = amount / seconds."""
        row = {"scenario": scenario, "unit": f"{unit}/s", "ours": amount / ours.seconds, "native": amount / native.seconds,
               "ratio": native.seconds / ours.seconds, "cores": ours.cores, "native_cores": native.cores,
               "rss": ours.rss, "native_rss": native.rss, "cpu": ours.cpu, "native_cpu": native.cpu,
               "amount": amount, "spread": runs}
        self.rows.append(row)
        self.show(row)
        return row

    def single(self, scenario, value, unit, meter=None, **more):
        """A figure without a counterpart."""
        row = {"scenario": scenario, "unit": unit, "ours": value, "native": None, "ratio": None,
               "cores": meter.cores if meter else {}, "rss": meter.rss if meter else {}, **more}
        self.rows.append(row)
        self.show(row)
        return row

    def note(self, text):
        self.notes.append(text)
        print(f"   note: {text}", flush=True)

    @staticmethod
    def parts(values, form):
        return ", ".join(f"{name} {form(value)}" for name, value in values.items())

    def show(self, row):
        ratio = f"  ratio {row['ratio']:.2f}" if row["ratio"] else ""
        native = f"  native {number(row['native'])}" if row["native"] is not None else ""
        print(f"=> {row['scenario']}: {number(row['ours'])} {row['unit']}{native}{ratio}", flush=True)
        for title, cores, rss in (("ours", row["cores"], row["rss"]), ("native", row.get("native_cores"), row.get("native_rss"))):
            if cores:
                print(f"     {title}: cores {self.parts(cores, lambda v: f'{v:.2f}')}; "
                      f"RssAnon MiB {self.parts(rss, lambda v: f'{v:.0f}')}", flush=True)
        if row.get("spread") and not row["spread"].startswith("one run"):
            print(f"     runs differ by {row['spread']}", flush=True)

    def table(self):
        out = ["| scenario | sidespool | native | ratio | cores (sidespool) | RssAnon MiB (sidespool) |",
               "| --- | --- | --- | --- | --- | --- |"]
        for row in self.rows:
            out.append(f"| {row['scenario']} | {number(row['ours'])} {row['unit']} | {number(row['native'])} | "
                       f"{number(row['ratio'])} | {self.parts(row['cores'], lambda v: f'{v:.2f}')} | "
                       f"{self.parts(row['rss'], lambda v: f'{v:.0f}')} |")
        return "\n".join(out)

    def write(self, path, **more):
        pathlib.Path(path).write_text(json.dumps({"machine": machine(), **more, "rows": self.rows, "notes": self.notes},
                                                 indent=1, default=str) + "\n")
