# shellcheck shell=sh
# Sourced beside lib.sh: one fault of the running fleet each, healed before it returns. NODES is how many nodes there are.

# shellcheck disable=SC2034 # for those who source this
FAULTS="scale stop kill leader pause nginx envoy etcd garbage"

tell() { printf '\n%s\n' "$*" >&2; }

do_scale() {
  tell "scale to $((NODES + 2)): a node registers when its nginx answers, and every list has it at once"
  nodes_up "$((NODES + 2))"
  await --count "$((NODES + 2))"
}

do_stop() {
  node=$(a_node follower)
  tell "stop $(name_of "$node"): it withdraws, waits for Envoy's acknowledgement, serves on for half a second, and goes"
  docker stop "$node" >/dev/null
  back "$node"
}

do_kill() {
  node=$(a_node follower)
  tell "kill $(name_of "$node"): its stream to the leader closes without a goodbye"
  gone_by kill "$node"
  back "$node"
}

do_leader() {
  node=$(a_node leader)
  tell "kill the leader, $(name_of "$node"): the next in line deposes it; Envoy keeps what it was told"
  gone_by kill "$node"
  await --leader
  back "$node"
}

do_pause() {
  node=$(a_node follower)
  tell "freeze $(name_of "$node"): Envoy asks another node after 150 ms; two missed renewals of its lease take it off the list"
  gone_by pause "$node"
  docker unpause "$node" >/dev/null
  await --count "$(running_nodes)"
}

do_nginx() {
  node=$(a_node follower)
  tell "kill nginx inside $(name_of "$node"): muster is PID 1, takes the node off the list, and starts nginx again"
  # shellcheck disable=SC2016 # for the shell in there
  docker exec "$node" sh -c 'kill -9 $(cat /run/muster/nginx.pid)'
  await --count "$(running_nodes)"
}

do_envoy() {
  envoy=$(containers "" envoy-a)
  tell "kill one of the two Envoys: its connections end, a client that asks again meets the other, and so do new ones"
  docker kill "$envoy" >/dev/null
  docker start "$envoy" >/dev/null
  await --envoy "$(setting ENVOY_ID)-a"
}

do_etcd() {
  member=$(containers "" etcd2)
  tell "stop a member of etcd: two of three are a majority"
  docker stop -t 5 "$member" >/dev/null
  await --leader --count "$(running_nodes)"
  docker start "$member" >/dev/null
  in_a_node check --wait 60 >/dev/null 2>&1 || fail "etcd did not come back: make check says why"
}

do_garbage() {
  tell "write garbage into the registry: it is skipped, counted, and hides no node"
  docker compose run --rm --no-deps -T etcd-root etcdctl put /muster/nodes/garbage '<script>alert(1)</script>' >/dev/null 2>&1
  found=0
  in_a_node verify --wait 5 >"$CACHE/garbage.log" 2>&1 || found=$?
  tail -n 2 "$CACHE/garbage.log" >&2
  docker compose run --rm --no-deps -T etcd-root etcdctl del /muster/nodes/garbage >/dev/null 2>&1
  [ "$found" = 3 ] || fail "muster verify does not say that something unreadable is registered (exit code $found)"
}

# gone_by COMMAND ID: and says how long the list still had it.
gone_by() {
  address=$(address_of "$2")
  began=$(seconds)
  docker "$1" "$2" >/dev/null
  await --gone "$address"
  say "  $address is off the list $(since "$began") after the command began"
}

# back ID: a container that was ended is started again, and listed under a new life.
back() {
  docker start "$1" >/dev/null
  await --count "$(running_nodes)"
}

# As `muster wait` has it, in a minute at most.
await() { in_a_node wait "$@" --timeout 60 >/dev/null; }

running_nodes() { count_of "$(containers "" nginx running)"; }

# nodes_up COUNT
nodes_up() {
  docker compose up -d --no-build --no-recreate --scale "nginx=$1" >"$CACHE/compose.log" 2>&1 ||
    fail "docker compose could not scale: $(tail -n 3 "$CACHE/compose.log")"
}

# Everything as before the fault: thawed, started, NODES of them.
heal() {
  for id in $(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter status=paused); do docker unpause "$id" >/dev/null; done
  nodes_up "$NODES"
}

# a_node leader|follower: its container.
a_node() {
  taken=$(node_rows | awk -v role="$1" '($3 == "leader") == (role == "leader") { print $1; exit }')
  [ -n "$taken" ] || fail "there is no $1 to take"
  echo "$taken"
}
