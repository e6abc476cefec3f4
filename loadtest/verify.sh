#!/usr/bin/env bash
# Do registry, files and Envoy name exactly the nodes that the engine runs? loadtest/verify.sh PROJECT URL [--wait SECONDS]
#
# Prints one row a node and every difference. Exit: 0 they do, 3 they differ, 4 it cannot be known.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../images/steps.sh"
# shellcheck source=loadtest/fleet.sh
source "$(dirname "$0")/fleet.sh"

# Envoy is asked this many times for each node: least request spreads idle requests at random, and each node must show.
ASKED=20

main() {
  (($# == 2 || $# == 4)) || usage
  PROJECT=$1 URL=$2
  [[ ${3:---wait} == --wait && ${4:-0} =~ ^[0-9]+$ ]] || usage
  local deadline=$((SECONDS + ${4:-0})) code table
  while :; do
    code=0
    table=$(compare) || code=$?
    ((code > 0 && SECONDS < deadline)) || break
    sleep 0.3
  done
  echo "$table"
  exit "$code"
}

usage() {
  say "loadtest/verify.sh PROJECT URL [--wait SECONDS]"
  exit 2
}

compare() {
  local nodes expected registry envoy id address file verdict complaints=() differs=0
  nodes=$(living)
  expected=$(cut -d' ' -f2 <<<"$nodes" | grep . || true)
  registry=$(registered) || { echo "no etcd member answers"; return 4; }
  envoy=$(answers)
  printf '%-15s %-12s %-8s %-8s %s\n' IP NODE REGISTRY FILE ENVOY
  while read -r id address; do
    [[ -n $id ]] || continue
    file=$(curl --noproxy '*' --silent --max-time 2 "http://$address:8080/ips.txt" || true)
    verdict=$(printf '%-15s %-12s %-8s %-8s %s' "$address" "$id" "$(has "$registry" "$address")" \
      "$([[ $file == "$expected" ]] && echo agrees || echo differs)" "$(has "$(cut -d' ' -f1 <<<"$envoy")" "$address")")
    echo "$verdict"
    [[ $verdict != *no* && $verdict != *differs* ]] || differs=1
  done <<<"$nodes"
  [[ -n $expected ]] || complaints+=("the engine runs no node")
  [[ $registry == "$expected" ]] || complaints+=("the registry has $(tr '\n' ' ' <<<"$registry")")
  complain "$(grep -vxF "${expected//$'\n'/ agrees$'\n'} agrees" <<<"$envoy" || true)"
  status_agrees "$(cut -d' ' -f1 <<<"$nodes" | head -n 1)" || complaints+=("muster status finds differences")
  ((${#complaints[@]} == 0)) || { printf '%s\n' "${complaints[@]}"; differs=1; }
  ((differs == 0)) || return 3
  echo "registry, files and Envoy agree on $(wc -l <<<"$expected") nodes"
}

has() { if grep -qxF "$2" <<<"$1"; then echo yes; else echo no; fi; }

# Each odd answer of Envoy once.
complain() {
  local line
  while read -r line; do
    [[ -z $line ]] || complaints+=("through Envoy: $line")
  done < <(sort -u <<<"$1")
}

# Addresses of the serving nodes, as etcd has them.
registered() {
  local member values
  for member in $(containers "" etcd1) $(containers "" etcd2) $(containers "" etcd3); do
    values=$(timeout 5 docker exec "$member" etcdctl get --prefix /muster/nodes/ --print-value-only 2>/dev/null) || continue
    grep '"state":"serving"' <<<"$values" | grep -o '"ip":"[^"]*"' | cut -d'"' -f4 | sort -V || true
    return 0
  done
  return 1
}

# One line an answer: who gave it, and whether its list is the expected one.
answers() {
  local count
  count=$(wc -l <<<"$expected")
  # Each on a connection of its own, which the kernel gives to either Envoy.
  curl --noproxy '*' --silent --max-time 10 --header "Connection: close" --dump-header - "$URL/ips.txt?[1-$((ASKED * count))]" 2>/dev/null | tr -d '\r' |
    awk -v expected="$expected" '
      function flush() { if (status != "") print by, (status == 200 && body == expected) ? "agrees" : "answers " status " with " body }
      BEGIN { gsub("\n", " ", expected) }
      /^HTTP\// { flush(); status = $2; by = "nobody"; body = ""; head = 1; next }
      head && tolower($1) == "x-served-by:" { by = $2 }
      head { if ($0 == "") head = 0; next }
      { body = body == "" ? $0 : body " " $0 }
      END { flush() }'
}

# The same question to the product: its exit code knows the digest of every file.
status_agrees() {
  [[ -n $1 ]] && timeout 10 docker exec "$1" muster status >/dev/null 2>&1
}

main "$@"
