"""A real fleet for the browser: `testbed up`, told what to do line by line."""

import json
import os
import queue
import re
import socket
import subprocess
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

    def __exit__(self, *_):
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
            return json.loads(answer.read())

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
