#!/usr/bin/env bash
# Everything that is checked: images/test.sh [lint] [clippy] [unit] [page] [bare] [containers]
#
# Named stages run one after the other. Without a name all of them run in lanes side by side: docs/decisions/lanes.md.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
cd "$ROOT"

# At first both compile, and what can wait comes late: the page and clippy. `containers` waits for the images that `bare` makes.
LANES=("unit containers clippy" "lint bare page")
MADE=$CACHE/images.made
# What an incremental build keeps is for a next one, and a machine of CI's has none.
[[ -z ${CI:-} ]] || export CARGO_INCREMENTAL=0
# Minutes after which a stage hangs rather than works, beside the other lanes. Each lane's are together under CI's 90.
declare -A BOUND=([lint]=5 [clippy]=10 [unit]=28 [page]=10 [bare]=50 [containers]=36)

main() {
  local stage
  (($# > 0)) || {
    side_by_side
    return
  }
  for stage; do
    [[ -n ${BOUND[$stage]:-} ]] || fail "unknown stage '$stage': lint, clippy, unit, page, bare or containers"
  done
  for stage; do one_stage "$stage"; done
}

# All lanes; the first stage that fails ends them. Each line says whose it is.
side_by_side() {
  local lane lanes=() started code=0
  started=$(seconds)
  rm -f "$MADE"
  for lane in "${LANES[@]}"; do
    # shellcheck disable=SC2086 # a list of stages
    MUSTER_LANE=yes "$ROOT/images/test.sh" $lane &
    lanes+=($!)
  done
  trap 'kill "${lanes[@]}" 2>/dev/null; wait; exit 130' INT
  trap 'kill "${lanes[@]}" 2>/dev/null; wait; exit 143' TERM HUP
  for lane in "${LANES[@]}"; do
    wait -n || { code=$?; break; }
  done
  trap - INT TERM HUP
  if ((code != 0)); then
    # One of them has ended already.
    kill "${lanes[@]}" 2>/dev/null || true
    wait
    fail "a stage did not pass, see above ($(since "$started"))"
  fi
  say "== everything passed in $(since "$started")"
}

# A shell of its own, so that a stage that hangs can be ended with all it started, and the rest is not reached in silence.
one_stage() {
  local stage=$1 started code=0 pid
  started=$(seconds)
  if [[ ${MUSTER_STAGE:-} == "$stage" ]]; then
    "test_$stage"
    return
  fi
  say "== $stage"
  # A background job, and whatever nohup started, has INT, QUIT or HUP ignored, and passes that on to each test.
  MUSTER_STAGE=$stage env --default-signal=INT,QUIT,HUP timeout --kill-after=60 "${BOUND[$stage]}m" "$ROOT/images/test.sh" "$stage" \
    > >(labelled "$stage") 2>&1 &
  pid=$!
  # What is in a group of its own hears no Ctrl-C.
  trap 'kill "$pid" 2>/dev/null; wait "$pid"; exit 130' INT
  trap 'kill "$pid" 2>/dev/null; wait "$pid"; exit 143' TERM HUP
  wait "$pid" || code=$?
  trap - INT TERM HUP
  ((code != 124 && code != 137)) || fail "$stage was not done in ${BOUND[$stage]} minutes; what it was at stands above"
  ((code == 0)) || fail "$stage did not pass, see above ($(since "$started"))"
  say "== $stage passed in $(since "$started")"
}

# labelled STAGE: what it reads, line by line, with the stage's name before it where two run at once.
labelled() { if [[ -n ${MUSTER_LANE:-} ]]; then exec sed -u "s/^/$1 | /"; else exec cat; fi; }

test_lint() {
  need_rust host
  need shellcheck=shellcheck
  cargo fmt --all --check
  # Run from the top, so that "source=images/steps.sh" is found.
  shellcheck --external-sources images/*.sh images/*/*.sh scripts/*.sh testbed/bare/*.sh loadtest/*.sh loadtest/*/*.sh .ci/run
  images/parts.sh promtool
  "$CACHE/parts/bin/promtool" test rules docs/alerts/muster.rules.test.yaml >"$CACHE/promtool.log" 2>&1 ||
    fail "the alert rules: $(cat "$CACHE/promtool.log")"
  images/workflows.sh
  # Minutes to compile, so only where it has been done before: docs/decisions/supply-chain-checks.md.
  if [[ -x $CACHE/tools/bin/cargo-deny ]]; then
    images/deny.sh
  else
    say "licences and sources not checked: cargo-deny is not here, make deny compiles it"
  fi
}

test_clippy() {
  need_rust host
  need_build all
  cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
}

test_unit() {
  need_rust host
  need_build all
  need curl=curl
  images/parts.sh etcd envoy nginx
  # Two tests a core: most of their time they wait for a lease or a back-off.
  RUST_TEST_THREADS=$(($(nproc) * 2)) cargo test --workspace --locked --quiet
}

# Always the whole workspace: with fewer packages, what they depend on has other features, and is compiled once more.
compile_tests() { cargo test --workspace --locked --quiet --no-run; }

# test_program NAME ARGUMENT...
test_program() {
  local name=$1
  shift
  cargo test --workspace --locked --quiet --test "$name" -- "$@"
}

# The page in a real browser, before a real fleet.
test_page() {
  need_rust host
  need_build all
  images/parts.sh etcd envoy nginx
  compile_tests
  images/browser.sh testbed/page/check.py
}

# The whole fleet in containers, under a project name and a port of its own.
test_containers() {
  need_engine
  images/parts.sh compose buildx
  # Beside `bare` these are the images that it makes; ended by the stage's bound, and by the other lane when it fails.
  until [[ -z ${MUSTER_LANE:-} || -e $MADE ]]; do sleep 1; done
  build_images node etcd front envoy
  docker compose config --quiet
  need nsenter=util-linux curl=curl openssl=openssl
  images/parts.sh etcd
  local module
  export MUSTER_TEST_PROJECT=muster-test-$$
  trap 'fleet_gone "$MUSTER_TEST_PROJECT"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  for module in fleet image intruders observe; do
    timed "$module" test_program containers --ignored "$module::"
  done
  two_builds
  timed "load tests" loadtest/test.sh
}

# The image's program and the one compiled for tests are two builds.
two_builds() {
  local container
  container=$(docker create "$(setting MUSTER_NODE_TAG)")
  docker cp "$container:/usr/local/bin/muster" "$CACHE/other-muster" >/dev/null
  docker rm "$container" >/dev/null
  MUSTER_OTHER_BIN=$CACHE/other-muster timed versions test_program testsuite --ignored versions::
}

# The first commands where nothing is installed.
test_bare() { testbed/bare/run.sh; }

# timed WHAT COMMAND...
timed() {
  local started what=$1
  started=$(seconds)
  shift
  "$@"
  say "$what: passed in $(since "$started")"
}

main "$@"
