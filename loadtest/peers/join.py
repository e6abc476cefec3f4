#!/usr/bin/env python3
"""Starts a stopped container and says when its nginx first answered: join.py CONTAINER

Prints "STARTED ANSWERED ADDRESS", milliseconds since 1970. It speaks to the engine itself, because the time that a
`docker inspect` takes would be part of the result.
"""
import http.client
import json
import os
import socket
import sys
import time

PATIENCE = 30
PAUSE = 0.003


class Engine(http.client.HTTPConnection):
    """The engine's API on its Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))


def ask(engine, method, path):
    engine.request(method, path)
    answer = engine.getresponse()
    body = answer.read()
    if answer.status >= 400:
        sys.exit(f"{method} {path}: {answer.status} {body.decode(errors='replace').strip()}")
    return json.loads(body) if body else None


def address_of(engine, container):
    networks = ask(engine, "GET", f"/containers/{container}/json")["NetworkSettings"]["Networks"]
    return next(network["IPAddress"] for network in networks.values())


def answers(address):
    connection = http.client.HTTPConnection(address, 8080, timeout=0.5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main():
    container = sys.argv[1]
    engine = Engine("localhost")
    started = time.time()
    ask(engine, "POST", f"/containers/{container}/start")
    address = address_of(engine, container)
    while not answers(address):
        if time.time() > started + PATIENCE:
            sys.exit(f"{container} at {address} does not answer")
        time.sleep(PAUSE)
    print(f"{started * 1000:.0f} {time.time() * 1000:.0f} {address}")


main()
