# shellcheck shell=bash
# Sourced beside scripts/lib.sh: the fleet under load. PROJECT is its Compose project, URL where Envoy is reached,
# ADDRESS the same as variables, COMPOSE the command.

# A project and a port of its own.
fleet_new() {
  local port
  for port in $(shuf -i 20000-32000 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  fleet_is "muster-load-$$" 127.0.0.1 "$port"
}

# fleet_is PROJECT ADDRESS PORT
fleet_is() {
  PROJECT=$1
  URL=http://$2:$3
  [[ $2 != 0.0.0.0 ]] || URL=http://127.0.0.1:$3
  ADDRESS=("MUSTER_BIND=$2" "MUSTER_PORT=$3")
  COMPOSE=(env "${ADDRESS[@]}" docker compose --project-directory "$ROOT" -p "$PROJECT")
}

# fleet_up NODES
fleet_up() {
  timeout 180 "${COMPOSE[@]}" up -d --no-build --no-recreate --scale "nginx=$1" >"$CACHE/load.log" 2>&1 ||
    fail "the fleet did not start: $(tail -n 3 "$CACHE/load.log")"
}

# Everything as before the fault: thawed, started, NODES of them.
fleet_restore() {
  local ids
  mapfile -t ids < <(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter status=paused)
  ((${#ids[@]} == 0)) || docker unpause "${ids[@]}" >/dev/null
  fleet_up "$1"
}

# Without a grace period, paused ones too, and whatever state Compose is in.
fleet_down() {
  local ids
  mapfile -t ids < <(containers -a)
  ((${#ids[@]} == 0)) || timeout 60 docker rm -f -v "${ids[@]}" >/dev/null 2>&1 || true
  mapfile -t ids < <(docker network ls -q --filter "label=com.docker.compose.project=$PROJECT")
  ((${#ids[@]} == 0)) || timeout 20 docker network rm "${ids[@]}" >/dev/null 2>&1 || true
  mapfile -t ids < <(docker volume ls -q --filter "label=com.docker.compose.project=$PROJECT")
  ((${#ids[@]} == 0)) || timeout 20 docker volume rm "${ids[@]}" >/dev/null 2>&1 || true
  [[ -z $(containers -a) ]] || say "these containers could not be removed: $(containers -a | tr '\n' ' ')"
}

# Nodes that should be listed: ID ADDRESS. A paused one should not, once its lease has ended.
living() {
  local ids
  mapfile -t ids < <(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" \
    --filter label=com.docker.compose.service=nginx --filter status=running)
  ((${#ids[@]} == 0)) ||
    docker inspect -f '{{slice .Id 0 12}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "${ids[@]}" | sort -V -k2
}

# The generated list is one JSON object without nested objects in its nodes: no JSON tool is needed.
leader() {
  curl --noproxy '*' --silent --fail --max-time 2 "$URL/ips.json" | tr -d ' \n' | grep -o '{[^{}]*"leader":true[^{}]*}' |
    grep -o '"name":"[^"]*"' | cut -d'"' -f4
}

# The youngest node that does not lead.
follower() {
  local leads
  leads=$(leader || true)
  living | cut -d' ' -f1 | grep -vxF "${leads:-nobody}" | while read -r id; do
    docker inspect -f '{{.State.StartedAt}} {{slice .Id 0 12}}' "$id"
  done | sort | tail -n 1 | cut -d' ' -f2 | grep .
}

listed_count() {
  curl --noproxy '*' --silent --max-time 2 "$URL/ips.txt" | grep -c . || true
}
