#!/usr/bin/env bash
# Everything that is checked, from the cheapest to the dearest: images/test.sh [lint] [unit] [page] [containers]
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
cd "$ROOT"

main() {
  local stage started
  (($# > 0)) || set -- lint unit page containers
  for stage; do
    [[ $stage =~ ^(lint|unit|page|containers)$ ]] || fail "unknown stage '$stage': lint, unit, page or containers"
  done
  for stage; do
    started=$(seconds)
    say "== $stage"
    "test_$stage"
    say "== $stage passed in $(since "$started")"
  done
}

test_lint() {
  need_rust
  need shellcheck=shellcheck protoc=protobuf-compiler
  cargo fmt --all --check
  cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
  # Run from the top, so that "source=images/steps.sh" is found.
  shellcheck --external-sources images/*.sh images/*/*.sh loadtest/*.sh loadtest/*/*.sh .ci/run
  images/parts.sh promtool
  "$CACHE/parts/bin/promtool" test rules docs/alerts/muster.rules.test.yaml >"$CACHE/promtool.log" 2>&1 ||
    fail "the alert rules: $(cat "$CACHE/promtool.log")"
  # Minutes to compile, so only where somebody has done it: docs/decisions/supply-chain-checks.md.
  if [[ -x $CACHE/tools/bin/cargo-deny ]]; then
    images/deny.sh
  else
    say "licences and sources not checked: cargo-deny is not here, make deny compiles it"
  fi
}

test_unit() {
  need_rust
  need protoc=protobuf-compiler curl=curl
  images/parts.sh etcd envoy nginx
  cargo test --workspace --locked --quiet
}

# The page in a real browser, before a real fleet.
test_page() {
  need_rust
  need protoc=protobuf-compiler
  images/parts.sh etcd envoy nginx
  cargo build --locked --quiet -p muster -p testbed
  images/browser.sh testbed/page/check.py
}

# The whole fleet in containers, under a project name and a port of its own.
test_containers() {
  engine_answers || fail "no container engine answers, and the containers are part of the test"
  images/parts.sh compose buildx
  images/build.sh
  docker compose config --quiet
  need nsenter=util-linux curl=curl openssl=openssl
  images/parts.sh etcd
  cargo test --locked --quiet -p testbed --test containers --test image --test intruders --test observe -- --ignored
  loadtest/test.sh
}

main "$@"
