#!/bin/sh
# make break: one fault of the running fleet while clients ask it, and what they noticed: scripts/break.sh [FAULT]
#
# The clients are a container in the network of both Envoys: this machine needs neither k6 nor a way to that network. Each asks
# again once, as browsers do. Exit 3 when a request was lost all the same, or when registry, files and Envoys disagree.
set -eu
umask 022
ROOT=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$ROOT/scripts/lib.sh"
# shellcheck source=scripts/kernel.sh
. "$ROOT/scripts/kernel.sh"
# shellcheck source=scripts/tls.sh
. "$ROOT/scripts/tls.sh"
# shellcheck source=scripts/faults.sh
. "$ROOT/scripts/faults.sh"
cd "$ROOT"

CLIENTS=

main() {
  fault=${1:-}
  # shellcheck disable=SC2086 # a list of words
  [ -n "$fault" ] || fault=$(printf '%s\n' $FAULTS | awk -v seed="$$" 'BEGIN { srand(); srand(srand() + seed) } { word[NR] = $0 } END { print word[int(rand() * NR) + 1] }')
  case " $FAULTS " in *" $fault "*) ;; *) fail "there is no fault '$fault'; there are: $FAULTS" ;; esac
  need_engine
  find_project
  compose_files
  NODES=$(running_nodes)
  [ "$NODES" -gt 1 ] || fail "at least two nodes must run to lose one: make up"
  in_a_node verify --wait 30 >/dev/null 2>&1 || fail "the fleet is not well to begin with: make check says why"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  ask_all_the_time
  "do_$fault"
  heal
  judge
}

# Prints how many were answered and how many were lost, after each one.
ask_all_the_time() {
  CLIENTS=$PROJECT-clients-$$
  target=http://127.0.0.1:8080/ips.txt
  ! tls_is_wanted || target=https://127.0.0.1:8443/ips.txt
  # shellcheck disable=SC2016 # for the shell in there
  docker run --detach --name "$CLIENTS" --network "container:$(containers "" front)" --user 65532:65532 --cap-drop ALL \
    --memory 32m --log-opt max-size=10m --env TARGET="$target" "$(setting MUSTER_FRONT_TAG)" sh -c '
      ask() { wget -q -T 5 -Y off --no-check-certificate -O /dev/null "$TARGET" 2>/dev/null; }
      answered=0
      lost=0
      while :; do
        if ask || ask; then answered=$((answered + 1)); else lost=$((lost + 1)); fi
        echo "$answered $lost"
      done' >/dev/null
  wait_for 30 some_answered || fail "the edge does not answer: $(docker logs --tail 3 "$CLIENTS" 2>&1)"
}

some_answered() { counted && [ "$answered" -gt 0 ]; }

# Sets `answered` and `lost`.
counted() {
  said=$(docker logs --tail 1 "$CLIENTS" 2>/dev/null)
  answered=${said% *}
  lost=${said#* }
  [ -n "$said" ]
}

# The fleet first: what is not well is told even when no request was lost.
judge() {
  verdict=0
  in_a_node verify --wait 60 >&2 || verdict=$?
  counted || fail "the clients said nothing"
  echo "$((answered + lost)) requests, $lost lost"
  if [ "$lost" -gt 0 ] || [ "$verdict" != 0 ]; then exit 3; fi
  say "nothing broke"
}

# On every way out: what has ended already is no failure, and the first reason is the one to be told.
clean_up() {
  trap '' INT TERM HUP
  [ -z "$CLIENTS" ] || docker rm -f "$CLIENTS" >/dev/null 2>&1 || true
  heal >/dev/null 2>&1 || true
}

main "$@"
