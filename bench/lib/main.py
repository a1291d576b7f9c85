"""bench/run: picks scenarios, runs each on servers of its own, prints the table."""

import argparse
import importlib
import pathlib
import signal
import sys
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "tests" / "lib")]

from bench import Bench  # noqa: E402
from report import Report, machine  # noqa: E402


def scenarios(engine):
    """name -> function, of every module in the engine's folder: SCENARIOS = {name: (sentence, function)}."""
    found = {}
    for path in sorted((HERE.parent / engine).glob("*.py")):
        if path.name != "__init__.py":
            found.update(importlib.import_module(f"{engine}.{path.stem}").SCENARIOS)
    return found


def main():
    parser = argparse.ArgumentParser(prog="bench/run", usage="bench/run postgres [SCENARIO…] [--runs N] [--scale F] [--json FILE]     bench/run --list")
    parser.add_argument("engine", nargs="?", choices=["postgres"])
    parser.add_argument("scenario", nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    known = scenarios(args.engine or "postgres")
    if args.list:
        for name, (sentence, _) in known.items():
            print(f"{name:24} {sentence}")
        return 0
    if not args.engine:
        parser.error("which engine? postgres")
    unknown = [name for name in args.scenario if name not in known]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are: {', '.join(known)}")
    if args.runs < 1 or args.scale <= 0:
        parser.error("--runs wants 1 or more, --scale more than 0")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    report, failed = Report(), []
    print(machine() + (f"; only {args.scale:g} of each load" if args.scale != 1 else ""), flush=True)
    for name in args.scenario or known:
        print(f"== {name}: {known[name][0]}", flush=True)
        bench = Bench(args, report)
        try:
            known[name][1](bench)
        except Exception:  # the other scenarios are still measured; the exit code and the last line say which failed
            traceback.print_exc()
            failed.append(name)
        finally:
            bench.close()
    print(f"\n{report.table()}\n")
    print("ratio: above 1 sidespool is the faster one; docs/benchmarks.md says what is compared with what")
    if args.scale != 1:
        print(f"only {args.scale:g} of each load, of which start-up is a large part: no figure to quote")
    for note in report.notes:
        print(f"- {note}")
    if args.json:
        report.write(args.json, runs=args.runs, scale=args.scale, failed=failed)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


sys.exit(main())
