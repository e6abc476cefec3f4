# shellcheck shell=bash
# Sourced: one balancer's turn. ME is its name, OUT the turn's directory, PROJECT the Compose project.

# The parts of the load in order, in seconds. Every event meets a fleet of three: a node is stopped, joins again, is
# killed, joins again, is paused and thawed; then three become ten and two.
PARTS=warm:3,before:6,stop:6,join:5,kill:6,rejoin:5,pause:6,thaw:4,grow:5,shrink:6,end:1
WATCHED=join,rejoin,grow
# The name of Compose's service for each.
declare -A SERVICE=([muster]=envoy [envoy-dns]=envoydns [haproxy]=haproxy [nginx]=proxy [caddy]=caddy)

begins() {
  awk -v wanted="$1" -v parts="$PARTS" 'BEGIN {
    n = split(parts, part, ",")
    for (i = 1; i <= n; i++) { split(part[i], p, ":"); if (p[1] == wanted) { print at; exit } at += p[2] }
  }'
}

# one_turn ROUND
one_turn() {
  local round=$1 balancer
  mkdir -p "$OUT"
  : >"$OUT/events"
  three_nodes
  balancer=$(docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$PROJECT" --filter "label=com.docker.compose.service=${SERVICE[$ME]}")
  docker start "$balancer" >/dev/null
  TARGET=http://$(on_fleet "$balancer"):8080
  sees_all_three || fail "$ME does not answer from three nodes: $(docker logs --tail 5 "$balancer" 2>&1)"
  throughput "$balancer" >"$OUT/throughput"
  open_load "$round" "$balancer"
  docker logs "$balancer" >"$OUT/balancer.log" 2>&1 || true
  # Which way muster's Envoy met the events; the others have no such page here.
  [[ $ME != muster ]] || envoy_counters >"$OUT/envoy"
  docker kill "$balancer" >/dev/null
}

# Its address on the network that the nodes are on.
on_fleet() { docker inspect -f "{{(index .NetworkSettings.Networks \"${PROJECT}_fleet\").IPAddress}}" "$1"; }

# Three run and answer, seven are there and stopped.
three_nodes() {
  local running wanted=3
  mapfile -t running < <(living | cut -d' ' -f1)
  while ((${#running[@]} < wanted)); do
    stopped_nodes | head -n $((wanted - ${#running[@]})) | xargs docker start >/dev/null
    mapfile -t running < <(living | cut -d' ' -f1)
  done
  ((${#running[@]} == wanted)) || docker stop "${running[@]:wanted}" >/dev/null
}

stopped_nodes() {
  docker ps -aq --filter "label=com.docker.compose.project=$PROJECT" --filter label=com.docker.compose.service=nginx \
    --filter status=created --filter status=exited
}

# 20 answers in a row by three different nodes, and the list itself names three.
sees_all_three() {
  local deadline=$((SECONDS + 30)) answers
  while ((SECONDS < deadline)); do
    answers=$(curl --noproxy '*' --silent --max-time 5 --output /dev/null --write-out '%{http_code} %header{x-served-by}\n' "$TARGET/page.txt?[1-20]" 2>/dev/null || true)
    if (($(grep -c '^200 ' <<<"$answers") == 20 && $(sort -u <<<"$answers" | wc -l) == 3)) &&
      (($(curl --noproxy '*' --silent --max-time 2 "$TARGET/ips.txt" | grep -c .) == 3)); then
      return
    fi
    sleep 0.2
  done
  return 1
}

# As fast as 32 connections go, the balancer with one thread: requests, seconds, failed, microseconds of CPU.
throughput() {
  local before after said
  "$WRK" -t1 -c32 -d1s "$TARGET/page.txt" >/dev/null
  before=$(cpu_of "$1")
  said=$("$WRK" -t1 -c32 -d4s --latency "$TARGET/page.txt")
  after=$(cpu_of "$1")
  awk -v cpu=$((after - before)) '
    /requests in/ { requests = $1; time = $4; sub(/s,$/, "", time) }
    /Non-2xx/ { failed += $NF }
    /Socket errors/ { for (i = 1; i <= NF; i++) failed += $i ~ /^[0-9]+,?$/ ? $i : 0 }
    END { print requests, time, failed + 0, cpu }' <<<"$said"
}

# Microseconds of CPU that a container has used, by either kind of cgroups.
cpu_of() {
  local pid line
  pid=$(docker inspect -f '{{.State.Pid}}' "$1")
  if line=$(grep -E '^[0-9]+:([a-z_,]*,)?cpuacct(,[a-z_,]*)?:' "/proc/$pid/cgroup"); then
    awk '{ printf "%.0f\n", $1 / 1000 }' "/sys/fs/cgroup/cpuacct${line##*:}/cpuacct.usage"
  else
    line=$(grep '^0::' "/proc/$pid/cgroup")
    awk '$1 == "usage_usec" { print $2 }' "/sys/fs/cgroup${line#0::}/cpu.stat"
  fi
}

# k6 and what happens to the nodes, side by side.
open_load() {
  local code=0
  env TARGET="$TARGET" RATE="$RATE" PARTS="$PARTS" WATCHED="$WATCHED" OUT="$OUT" timeout -k 10 180 \
    "$K6" run --quiet --no-usage-report --no-color --address '' --console-output "$OUT/requests.log" "$HERE/load.js" >"$OUT/k6.log" 2>&1 &
  LOAD=$!
  load_has_begun 30
  all_events "$1" "$2" &
  FAULT=$!
  wait "$LOAD" || code=$?
  LOAD=
  sampling_ends
  wait "$FAULT" || fail "$ME: an event did not happen as it should, see $OUT"
  FAULT=
  ((code == 0)) || fail "k6 ended with $code: $(tail -n 5 "$OUT/k6.log")"
  machine >&2
}

# A quarter of a second into its part, so that no request of the part before is met.
at_part() { until_second "$(awk -v at="$(begins "$1")" 'BEGIN { print at + 0.25 }')"; }

all_events() {
  local round=$1 balancer=$2 node ids
  until_second "$(begins before)"
  cpu_of "$balancer" >"$OUT/cpu"
  until_second "$(begins stop)"
  cpu_of "$balancer" >>"$OUT/cpu"
  node=$(victim stop "$round")
  at_part stop
  on_node stop "$node"
  at_part join
  joins join "$node"
  node=$(victim kill $((round + 1)))
  at_part kill
  on_node kill "$node"
  at_part rejoin
  joins rejoin "$node"
  node=$(victim pause $((round + 2)))
  at_part pause
  on_node pause "$node"
  at_part thaw
  on_node unpause "$node"
  mapfile -t ids < <(stopped_nodes)
  at_part grow
  on_nodes start "${ids[@]:0:7}"
  mapfile -t ids < <(living | cut -d' ' -f1)
  ((${#ids[@]} == 10)) || fail "there are ${#ids[@]} nodes and not 10"
  at_part shrink
  on_nodes stop "${ids[@]:2}"
}

# victim PART NUMBER: the n-th node by address and not by what it does, so that muster's leader is met as well, in about
# a third of the rounds; it is written down when it is.
victim() {
  local node
  node=$(living | cut -d' ' -f1 | sed -n "$(($2 % 3 + 1))p" | grep .)
  [[ $(URL=$TARGET leader || true) != "$node" ]] || echo "$1" >>"$OUT/leader"
  echo "$node"
}

joins() {
  local began
  began=$(now_ms)
  python3 "$HERE/join.py" "$2" >"$OUT/$1" 2>>"$OUT/commands.log" || fail "$1: $(tail -n 1 "$OUT/commands.log")"
  happened "$began" "$1" "$(cut -d' ' -f3 "$OUT/$1")"
}

# All at once, as Compose does it.
on_nodes() {
  local began what=$1 pids=() id pid
  shift
  began=$(now_ms)
  for id; do
    timeout 60 docker "$what" "$id" >>"$OUT/commands.log" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || fail "$what: $(tail -n 1 "$OUT/commands.log")"; done
  happened "$began" "$what" "$#"
}
