#!/usr/bin/env python3
"""Reads the turns of one run and says what they measured: results.py DIRECTORY

Writes DIRECTORY/results.json and prints a table. Times are milliseconds, CPU is microseconds a request.
"""
import json
import pathlib
import re
import statistics
import sys

NAMES = ["muster", "envoy-dns", "haproxy", "nginx", "caddy"]
EVENTS = ["stop", "join", "kill", "pause", "grow", "shrink"]
FIRST = re.compile(r'FIRST (\w+) ([\d.]+) (\d+)')


def read(directory):
    """The run: environment, and for each balancer its turns in the order of the rounds."""
    directory = pathlib.Path(directory)
    environment = json.loads((directory / "environment.json").read_text())
    turns = {}
    for found in sorted(directory.glob("*-*/load.json"), key=lambda path: int(path.parent.name.split("-")[0])):
        number, name = found.parent.name.split("-", 1)
        turns.setdefault(name, []).append(turn(found.parent, int(number)))
    if not turns:
        sys.exit(f"{directory} holds no turn")
    balancers = {name: summary(turns[name]) for name in NAMES if name in turns}
    return {"schema": 1, "environment": environment, "balancers": balancers}


def turn(directory, number):
    load = json.loads((directory / "load.json").read_text())
    requests, seconds, wrong, cpu = map(float, (directory / "throughput").read_text().split())
    cpu_before, cpu_after = map(int, (directory / "cpu").read_text().split())
    first, grown = firsts(directory)
    joins = [joined(directory, part, first) for part in ("join", "rejoin")]
    leader = directory / "leader"
    return {
        "round": number,
        "parts": load["parts"],
        "not_sent": load["not_sent"],
        "join_ms": joins,
        "grow_ms": grown,
        "throughput": round(requests / seconds),
        "throughput_failed": int(wrong),
        "cpu_busy": round(cpu / requests, 1),
        "cpu_at_rate": round((cpu_after - cpu_before) / load["parts"]["before"]["sent"], 1),
        "busy": [int(number) for number in re.findall(r"(\d+) %", (directory / "machine.txt").read_text())],
        "led": leader.read_text().split() if leader.exists() else [],
    }


def firsts(directory):
    """When each node was first heard through the balancer in each watched part, and how long ten nodes took."""
    heard = {}
    for part, node, at in FIRST.findall((directory / "requests.log").read_text()):
        key = (part, node)
        heard[key] = min(int(at), heard.get(key, int(at)))
    began = next(int(line.split()[0]) for line in (directory / "events").read_text().splitlines() if line.split()[2:4] == ["start", "7"])
    grown = [at for (part, _), at in heard.items() if part == "grow"]
    return heard, max(grown) - began if len(grown) == 10 else None


def joined(directory, part, heard):
    """From the answer of the node's own nginx to its first answer through the balancer; None when there was none."""
    _, answered, address = (directory / part).read_text().split()
    at = heard.get((part, address))
    return None if at is None else max(0, at - int(answered))


def summary(turns):
    def middle(values):
        values = [value for value in values if value is not None]
        return round(statistics.median(values), 1) if values else None

    parts = {}
    for name in ["before", *EVENTS]:
        of = [turn["parts"][name] for turn in turns]
        parts[name] = {
            "sent": sum(part["sent"] for part in of),
            "failed": sum(part["failed"] for part in of),
            "p99": middle(part["p99"] for part in of),
            "worst": [part["max"] for part in of],
            "worst_middle": middle(part["max"] for part in of),
        }
    joins = [value for turn in turns for value in turn["join_ms"]]
    return {
        "parts": parts,
        "join_ms": middle(joins),
        "joins": joins,
        "join_worst": None if None in joins else max(joins),
        "grow_ms": middle(turn["grow_ms"] for turn in turns),
        "not_grown": sum(turn["grow_ms"] is None for turn in turns),
        "throughput": middle(turn["throughput"] for turn in turns),
        "cpu_busy": middle(turn["cpu_busy"] for turn in turns),
        "cpu_at_rate": middle(turn["cpu_at_rate"] for turn in turns),
        "not_sent": sum(turn["not_sent"] for turn in turns),
        "throughput_failed": sum(turn["throughput_failed"] for turn in turns),
        "led": sum(len(turn["led"]) for turn in turns),
        "turns": turns,
    }


def table(run):
    lines = [f"{'':10}{'join':>7}{'ten':>7}" + "".join(f"{event:>18}" for event in EVENTS) + f"{'req/s':>8}{'us':>7}{'us@rate':>9}",
             f"{'':10}{'ms':>7}{'ms':>7}" + f"{'failed p99 worst':>18}" * len(EVENTS)]
    for name, found in run["balancers"].items():
        cells = "".join(
            f"{part['failed']:>5}{part['p99']:>6.0f}{max(part['worst']):>7.0f}" for part in (found["parts"][event] for event in EVENTS))
        lines.append(f"{name:10}{shown(found['join_ms']):>7}{shown(found['grow_ms']):>7}{cells}"
                     f"{found['throughput']:>8.0f}{found['cpu_busy']:>7.1f}{found['cpu_at_rate']:>9.1f}")
    return "\n".join(lines)


def shown(value):
    return "never" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    result = read(sys.argv[1])
    pathlib.Path(sys.argv[1], "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
