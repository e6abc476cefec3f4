"""A real fleet for the browser: `testbed up`, told what to do line by line."""

import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90


class Clock:
    """How time is let pass; a browser's tabs get their events only while it is asked to."""

    wait = staticmethod(time.sleep)


def eventually(what, holds, patience=PATIENCE):
    """The first result that is no failure; the last failure when there is none in time."""
    end = time.monotonic() + patience
    while True:
        try:
            return holds()
        except AssertionError as error:
            if time.monotonic() > end:
                raise AssertionError(f"never: {what}: {error}") from error
        Clock.wait(0.05)


class Fleet:
    """3 members of etcd, nodes, Envoy; leases of 2 s. Ends with the block that opened it."""

    def __init__(self, nodes=3, program=None):
        self.nodes = nodes
        # Address and port of each node that was ever listed.
        self.met = {}
        self.program = program or os.environ.get("TESTBED_BIN") or ROOT / "target/debug/testbed"

    def __enter__(self):
        with socket.socket() as asked:
            asked.bind(("127.0.0.1", 0))
            self.port = asked.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [self.program, "up", "--nodes", str(self.nodes), "--port", str(self.port), "--ttl", "2"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, **pipes)
        self.lines, self.said = queue.Queue(), []
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._until("Try it")
        except BaseException:
            self.__exit__()
            raise
        found = re.search(r"--endpoints (\S+)", "\n".join(self.said))
        self.endpoints = found.group(1)
        return self

    def __exit__(self, kind=None, error=None, *_):
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self.explain()
        self.process.terminate()
        self.process.wait(timeout=60)

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _until(self, wanted):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"the testbed never said {wanted!r}, but:\n" + "\n".join(self.said[-20:]))
            self.said.append(line)
            if wanted in line:
                return line

    def tell(self, words, until="listed, revision"):
        """Gives an order and waits until it is carried out and everybody agrees."""
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self._until(until)

    def get(self, path, ip=None):
        """A JSON file through Envoy, or from one node."""
        base = f"http://{ip}:{self.http_port()}" if ip else self.url
        with urllib.request.urlopen(f"{base}/{path}", timeout=5) as answer:
            said = json.loads(answer.read())
        if path == "ips.json":
            self.met.update({node["name"]: (node["ip"], node["port"]) for node in said["nodes"]})
        return said

    def http_port(self):
        return self.get("ips.json")["nodes"][0]["port"]

    def etcdctl(self, *words):
        program = Path(os.environ.get("MUSTER_PARTS") or ROOT / ".cache/parts/bin") / "etcdctl"
        command = [program, "--endpoints", self.endpoints, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def mark(self, node, why):
        """Holds a node back, as an operator does."""
        self.etcdctl("put", f"/muster/marks/{node}", json.dumps({"v": 1, "since": "2026-01-01T00:00:00Z", "why": why}))

    def unmark(self, node):
        self.etcdctl("del", f"/muster/marks/{node}")

    def explain(self):
        """What everybody says at this moment, on stderr: what a page shows wrongly may be wrong before it gets there."""

        def tell(what, ask):
            try:
                said = ask()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            print(f"--- {what}\n{said}", file=sys.stderr, flush=True)

        def ran(*words):
            done = subprocess.run(words, capture_output=True, text=True, timeout=30)
            return (done.stdout + done.stderr).rstrip()

        tell("load", os.getloadavg)
        tell("ips.json through Envoy", lambda: json.dumps(self.get("ips.json")))
        for name, (ip, port) in sorted(self.met.items()):
            for path in ("ips.json", "node.json"):
                url = f"http://{ip}:{port}/{path}"
                tell(f"{name} {path}", lambda url=url: urllib.request.urlopen(url, timeout=3).read().decode().strip())
        etcdctl = [Path(os.environ.get("MUSTER_PARTS") or ROOT / ".cache/parts/bin") / "etcdctl", "--endpoints", self.endpoints]
        tell("etcdctl endpoint status", lambda: ran(*etcdctl, "endpoint", "status", "-w", "table"))
        tell("etcdctl get", lambda: ran(*etcdctl, "get", "--prefix", "/muster/", "--keys-only"))
        # Addresses of loopback are not believed otherwise.
        asked = ["--allow", "127.0.0.0/8", "-o", "wide", "--etcd", ",".join(f"http://{one}" for one in self.endpoints.split(","))]
        tell("muster status", lambda: ran(Path(self.program).with_name("muster"), "status", *asked))
        # The testbed writes the end of each log to stderr by itself.
        self.process.stdin.write("logs\n")
        self.process.stdin.flush()
        tell("testbed", lambda: self._until("the logs are kept"))
