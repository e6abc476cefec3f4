# Every command a person needs; `make help` lists them. The work is done by the scripts in scripts/ and images/ and by cargo.
.DEFAULT_GOAL := help
.PHONY: help install-unit remove-unit up up-local scale stop kill kill-leader status verify check muster observe logs down clean images fmt lint test bench load peers model test-bare test-long deny sbom demo break test-page screenshots roll backup restore

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: ## start the fleet (containers, or plain processes without an engine) and print the list
	@scripts/fleet.sh up

up-local: ## start the same fleet as plain processes, without containers
	@images/parts.sh etcd envoy nginx
	@images/cargo.sh build --quiet --locked --release -p muster -p testbed
	@target/release/testbed up

scale: ## make scale N=5: change the number of nodes
	@scripts/fleet.sh scale '$(N)'

stop: ## stop a node gracefully (NODE=name, id or address; the youngest by default)
	@scripts/fleet.sh stop '$(NODE)'

kill: ## kill a node with SIGKILL (NODE=...)
	@scripts/fleet.sh kill '$(NODE)'

kill-leader: ## kill the node that leads
	@scripts/fleet.sh kill-leader

status: ## containers and roster
	@scripts/fleet.sh status

verify: ## registry, every node's file and Envoy compared; exit 3 on a difference
	@scripts/fleet.sh muster verify --wait 10

check: ## what is well and what is not, with a hint for each
	@scripts/fleet.sh muster check

muster: ## make muster ARGS='drain NODE --wait': a command of muster's, in a node
	@scripts/fleet.sh muster $(ARGS)

roll: ## replace what is out of date, one container at a time, without losing a request
	@scripts/roll.sh

backup: ## make backup FILE=x: a snapshot of etcd into a file
	@scripts/registry.sh backup '$(FILE)'

restore: ## make restore FILE=x: etcd from that snapshot; requests are served meanwhile
	@scripts/registry.sh restore '$(FILE)'

install-unit: ## a systemd unit that brings the fleet up with the engine (as root)
	@scripts/unit.sh install

remove-unit: ## take that unit away again (as root)
	@scripts/unit.sh remove

observe: ## Prometheus beside the fleet, with its alerts; docs/dashboards has Grafana's dashboard
	@scripts/observe.sh

# follow everybody's log#logs: ## follow the log of every container## follow everybody's log
	@scripts/fleet.sh logs

down: ## remove the containers, keep etcd's data
	@scripts/fleet.sh down

clean: ## down, and remove data and images
	@scripts/fleet.sh clean

images: ## make the images without starting anything
	@images/build.sh

fmt: ## format the code
	@cargo fmt --all

lint: ## formatting, clippy, shellcheck
	@images/test.sh lint clippy

test: ## everything that is checked: lint, unit, property, integration, the page, bare machines, containers
	@images/test.sh

test-bare: ## the first commands on bare machines: Debian, plain Compose, Alpine, an engine that restarts
	@testbed/bare/run.sh

test-long: ## what is worth more minutes than CI has: aarch64 under an emulator, bare machines with a package too few
	@images/test-long.sh

deny: ## licences, sources and bans of what is compiled in, and known vulnerabilities where the database can be reached
	@images/deny.sh

sbom: ## what the node's image is made of, as CycloneDX: target/sbom/node.cdx.json
	@images/sbom.sh

test-page: ## the page in a real browser, before a real fleet
	@images/test.sh page

screenshots: ## make the pictures of the page in docs/images anew
	@images/parts.sh etcd envoy nginx
	@images/cargo.sh build --quiet --locked -p muster -p testbed
	@images/browser.sh testbed/page/screenshots.py

model: ## search the model of the protocol whole, and each mutant of it (docs/protocol.md)
	@images/cargo.sh run --release --quiet --locked -p model

bench: ## measure join, leave, kill, leader change, without and with TLS; tables and JSON
	@images/parts.sh etcd envoy nginx
	@images/build.sh binary
	@images/cargo.sh build --quiet --locked --release -p testbed
	@MUSTER_BIN=target/$$(uname -m)-unknown-linux-musl/release/muster target/release/testbed bench --rounds 20
	@MUSTER_BIN=target/$$(uname -m)-unknown-linux-musl/release/muster target/release/testbed bench --rounds 10 --tls --crowd 0

demo: ## a tour of about three minutes: break everything while k6 counts what clients notice
	@loadtest/tour.sh demo

break: ## make break FAULT=kill (at random without): one fault of the running fleet, and what clients noticed
	@scripts/break.sh $(FAULT)

load: ## make load SCENARIO=kill: load a fleet of its own, break it, ask what agrees (ARGS='--rate 200 --runs 5')
	@images/build.sh
	@loadtest/run.sh $(or $(SCENARIO),smoke) $(ARGS)

peers: ## the same nodes behind HAProxy, nginx, Caddy and Envoy with DNS (ARGS='--rounds 1'; ARGS=--page writes the page)
	@loadtest/peers/run.sh $(ARGS)
