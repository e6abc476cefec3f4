#!/usr/bin/env bash
# make observe: Prometheus beside the fleet that runs, and not in the way of it. It goes with `down`, and what it saw stays till `clean`.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../images/steps.sh"
# shellcheck source=scripts/kernel.sh
source "$ROOT/scripts/kernel.sh"
# shellcheck source=scripts/tls.sh
source "$ROOT/scripts/tls.sh"
cd "$ROOT"

main() {
  local started said="" url deadline nodes grafana
  need_engine
  find_project
  compose_files
  nodes=$(containers "" nginx | wc -l)
  ((nodes > 0)) || fail "no fleet runs here: make up first"
  need curl=curl
  images/build.sh prometheus
  started=$(seconds)
  # A fleet from before has no certificate for it yet.
  if ! { docker compose run --rm --no-deps -T pki &&
    docker compose --profile observe up -d --no-build --no-deps prometheus; } >"$CACHE/compose.log" 2>&1; then
    fail "docker compose could not start Prometheus: $(tail -n 3 "$CACHE/compose.log")"
  fi
  url=http://127.0.0.1:$(setting MUSTER_PROMETHEUS_PORT)
  deadline=$((SECONDS + PATIENCE))
  until [[ $(grep -o '"scrapePool":"muster"' <<<"$said" | wc -l) -ge $nodes && $said != *'"health":"down"'* && $said != *'"health":"unknown"'* ]]; do
    if ((SECONDS >= deadline)); then
      docker compose logs --no-color --tail 5 prometheus >&2
      fail "not every target answers Prometheus after $PATIENCE s, see $url/targets: $(grep -o '"lastError":"[^"]\+"' <<<"$said" | sort | uniq -c)"
    fi
    sleep 0.5
    said=$(curl --noproxy '*' --silent --max-time 2 "$url/api/v1/targets?state=active" || true)
  done
  say "Prometheus hears all $(grep -o '"scrapePool"' <<<"$said" | wc -l) targets after $(since "$started"): $url/consoles/muster.html; make down ends it."
  [[ $(curl --noproxy '*' --silent --location --output /dev/null --write-out '%{http_code}' "$url/") == 200 ]] ||
    say "It is Debian's, without pages of its own: that one and $url/api/v1/ are what it has."
  grafana=$(setting GRAFANA_IMAGE)
  if ! { docker image inspect "$grafana" || timeout 600 docker pull --quiet "$grafana"; } >/dev/null 2>&1; then
    say "$grafana cannot be had; in a Grafana of your own import docs/dashboards/muster.json"
  elif docker compose --profile grafana up -d --no-deps grafana >"$CACHE/compose.log" 2>&1; then
    say "Grafana with the dashboard starts at http://127.0.0.1:$(setting MUSTER_GRAFANA_PORT)/"
  else
    warn "Grafana does not start: $(tail -n 3 "$CACHE/compose.log")"
  fi
}

main "$@"
