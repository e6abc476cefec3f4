#!/usr/bin/env python3
"""Writes what one run measured into docs/comparison.md (between its two marks) and docs/comparison.svg: page.py DIRECTORY"""
import pathlib
import sys

import plot
from results import EVENTS, read, shown

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
BEGIN = "<!-- Written by loadtest/peers/page.py; change it there. -->"
END = "<!-- End of what is written by loadtest/peers/page.py. -->"
# Up to these a difference is the machine's: a balancer's own quiet part varies by as much from round to round.
NOISE_MS = 50
NOISE_SHARE = 0.05
ROUNDS = 5
TOLD = {
    "join": "a node joins", "stop": "docker stop of one", "kill": "docker kill of one", "pause": "docker pause of one",
    "grow": "3 to 10 nodes", "shrink": "10 to 2 nodes",
}
NAMED = {
    "muster": "**muster** (Envoy {envoy}, ADS)", "envoy-dns": "Envoy {envoy}, DNS", "haproxy": "HAProxy {haproxy}",
    "nginx": "nginx {nginx_proxy}", "caddy": "Caddy {caddy}",
}


def main():
    run = read(sys.argv[1])
    page = DOCS / "comparison.md"
    text = page.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{measured(run)}\n{END}{after}")
    (DOCS / "comparison.svg").write_text(picture(run))


def measured(run):
    found, environment = run["balancers"], run["environment"]
    rounds = len(next(iter(found.values()))["turns"])
    parts = [
        f"{rounds} round{'s' * (rounds > 1)}, interleaved, {environment['rate']} requests a second, on {environment['cores']} cores of {environment['cpu']} "
        f"with {environment['memory']}; Linux {environment['kernel']}, Docker {environment['engine']}. muster {environment['muster'].split()[1]} "
        f"(commit {environment['muster'].split()[-1]}), nodes with nginx {environment['nginx']}, etcd {environment['etcd']}, "
        f"k6 {environment['k6'].lstrip('v')}, wrk {environment['wrk']}; {environment['at'][:10]}. {busy(found)}",
    ]
    if rounds < ROUNDS:
        parts.append(f"**Provisional: {rounds} of {ROUNDS} rounds.**")
    parts += [
        "Requests that failed, over all rounds:", losses(run),
        "The worst latency in milliseconds: the middle of the rounds, and in brackets the worst of all. `before` is the quiet part of "
        "the same turns.", latencies(run, lambda part: f"{part['worst_middle']:.0f} ({round(max(part['worst']), 1):.0f})"),
        "p99 in milliseconds, the middle of the rounds:", latencies(run, lambda part: f"{part['p99']:.1f}"),
        "Joining, throughput and cost:", costs(run),
        "![Worst latency of each round and event, and join times](comparison.svg)",
        "### Where a peer wins", wins(run),
    ]
    doubts = unsent(found)
    if doubts:
        parts.append(doubts)
    return "\n\n".join(parts) + "\n"


def busy(found):
    """How loaded the machine was while it measured, the load included: above about 60 % waiting, believe no worst."""
    cores, waiting = zip(*(turn["busy"][:2] for of in found.values() for turn in of["turns"]))
    return f"The cores were {min(cores)} to {max(cores)} % busy, the load included; somebody waited for one {min(waiting)} to {max(waiting)} % of the time."


def named(name, run):
    return NAMED[name].format(**run["environment"])


def rows(header, lines):
    return "\n".join(["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *("| " + " | ".join(line) + " |" for line in lines)])


def losses(run):
    sent = {event: max(found["parts"][event]["sent"] for found in run["balancers"].values()) for event in EVENTS}
    header = ["balancer", *(f"{TOLD[event]} (of {sent[event]:,})" for event in EVENTS)]
    return rows(header, [[named(name, run), *(f"{found['parts'][event]['failed']:,}" for event in EVENTS)] for name, found in run["balancers"].items()])


def latencies(run, cell):
    header = ["balancer", "before", *(TOLD[event] for event in EVENTS)]
    return rows(header, [[named(name, run), *(cell(found["parts"][part]) for part in ["before", *EVENTS])] for name, found in run["balancers"].items()])


def costs(run):
    header = ["balancer", "join, ms (worst)", "10 nodes seen, ms", "requests/s", "CPU a request, µs", "the same at {rate}/s, µs".format(**run["environment"])]
    lines = []
    for name, found in run["balancers"].items():
        never = f", {found['not_grown']} not within 5 s" if found["not_grown"] else ""
        lines.append([
            named(name, run), f"{shown(found['join_ms'])} ({shown(found['join_worst'])})", f"{shown(found['grow_ms'])}{never}",
            f"{found['throughput']:,.0f}", f"{found['cpu_busy']:.0f}", f"{found['cpu_at_rate']:.0f}",
        ])
    return rows(header, lines)


def wins(run):
    """Every measure in which somebody else is better by more than noise; so a page cannot forget one."""
    ours = run["balancers"].get("muster")
    if ours is None:
        return "muster was not part of this run."
    measures = [(f"failed requests, {TOLD[event]}", lambda of, event=event: of["parts"][event]["failed"], False, 0, "") for event in EVENTS]
    measures += [
        (f"worst latency, {TOLD[event]}", lambda of, event=event: of["parts"][event]["worst_middle"], False, NOISE_MS, " ms") for event in EVENTS
    ]
    measures += [
        ("join time", lambda of: of["join_ms"], False, NOISE_MS, " ms"), ("10 nodes seen", lambda of: of["grow_ms"], False, NOISE_MS, " ms"),
        ("throughput", lambda of: of["throughput"], True, NOISE_SHARE * ours["throughput"], "/s"),
        ("CPU a request", lambda of: of["cpu_busy"], False, NOISE_SHARE * ours["cpu_busy"], " µs"),
        ("CPU a request at the fixed rate", lambda of: of["cpu_at_rate"], False, NOISE_SHARE * ours["cpu_at_rate"], " µs"),
    ]
    lines = []
    for what, value, more, noise, unit in measures:
        mine = value(ours)
        better = []
        for name, found in run["balancers"].items():
            theirs = value(found)
            if theirs is None or name == "muster":
                continue
            if mine is None or (theirs - mine if more else mine - theirs) > noise:
                better.append((theirs, name))
        if better:
            said = ", ".join(f"{named(name, run)} {theirs:,.0f}{unit}" for theirs, name in sorted(better, reverse=more))
            lines.append(f"- {what}: {said}; muster {'never' if mine is None else f'{mine:,.0f}{unit}'}")
    note = f"Differences of up to {NOISE_MS} ms, or {NOISE_SHARE:.0%} in throughput and CPU, are not counted, either way."
    return "\n".join([*(lines or ["Nowhere in this run."]), "", note])


def unsent(found):
    lines = [f"{name}: {of['not_sent']} requests not sent" for name, of in found.items() if of["not_sent"]]
    lines += [f"{name}: {of['throughput_failed']} failed while throughput was measured" for name, of in found.items() if of["throughput_failed"]]
    return "Beside that: " + "; ".join(lines) + ". A request is not sent when all of k6's users are waiting." if lines else ""


def picture(run):
    found = run["balancers"]
    lines = [("join time", [(name, of["joins"], None) for name, of in found.items()])]
    lines += [
        (TOLD[event], [(name, of["parts"][event]["worst"], of["parts"][event]["failed"]) for name, of in found.items()]) for event in EVENTS
    ]
    subtitle = "First line: from a node's own answer to its first through the balancer. Others: the worst latency. A dot is a round, a bar the middle."
    return plot.draw("Five balancers before the same nginx nodes", subtitle, lines)


main()
