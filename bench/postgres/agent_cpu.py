"""What capture costs on the source's host: CPU of the agent beside that of the walsender it reads from."""

import time

from meter import cpu
from postgres.latency import RATE, SECONDS, Load
from postgres.pgbench import backlog
from world import until


def median_cost(runs):
    return sorted(runs)[(len(runs) - 1) // 2]


class Costs:
    """CPU seconds of agent and walsender for 10,000 changes: the cores that 10,000 changes a second keep busy."""

    def __init__(self):
        self.agent, self.walsender = [], []

    def add(self, changes, agent, walsender):
        self.agent.append(agent / changes * 10_000)
        self.walsender.append(walsender / changes * 10_000)

    def report(self, bench, name):
        agent, walsender = median_cost(self.agent), median_cost(self.walsender)
        bench.report.single(name, agent * 100, "% of a core", native=walsender * 100, ratio=walsender / agent)


def walsender(made):
    return until("the walsender", lambda: made.source.one(
        "select active_pid from pg_replication_slots where slot_name = %s", made.slot))


def catching_up(made, costs):
    made.renew_slot(made.slot, "kept_ours")
    made.restore_spool()
    made.bench.settle()
    agent = made.world.start_agent()
    sender = walsender(made)
    made.until_captured()
    costs.add(made.changes, cpu(agent.pid), cpu(sender))


def steady(made, costs, scale):
    """The same agent goes on; nothing else but the load runs."""
    agent, sender = made.world.agent, walsender(made)
    time.sleep(1)
    seconds = max(5, int(SECONDS * min(1.0, made.bench.scale)))
    before = cpu(agent.pid), cpu(sender)
    load = Load(made.bench, made.world, scale, seconds)
    changes = load.tps() * seconds
    time.sleep(0.5)
    costs.add(changes, cpu(agent.pid) - before[0], cpu(sender) - before[1])
    agent.stop()


def agent_cpu(bench):
    made = backlog(bench)
    bulk, calm = Costs(), Costs()
    for _ in range(bench.runs):
        catching_up(made, bulk)
        steady(made, calm, bench.amount(20))
    bulk.report(bench, "agent's CPU for 10,000 changes/s, catching up (native: the walsender's)")
    calm.report(bench, f"agent's CPU for 10,000 changes/s, at {RATE:,} single-row transactions/s (native: the walsender's)")


SCENARIOS = {"agent_cpu": ("CPU of the agent on the source's host, beside the walsender's", agent_cpu)}
