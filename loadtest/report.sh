# shellcheck shell=bash
# Sourced: what is written down beside k6's numbers. OUT is the directory of this run.

# environment SCENARIO: everything that a number depends on, as JSON.
environment() {
  local node envoy member
  node=$(containers "" nginx | head -n 1)
  envoy=$(containers "" envoy-a | head -n 1)
  member=$(containers "" etcd1 | head -n 1)
  printf '{\n'
  pair scenario "$1"
  pair at "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  pair cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
  pair cores "$(nproc)"
  pair memory "$(awk '/^MemTotal/ { printf "%.1f GiB", $2 / 1048576 }' /proc/meminfo)"
  pair kernel "$(uname -r)"
  pair engine "$(docker version --format '{{.Server.Version}}')"
  pair compose "$(docker compose version --short)"
  pair userland_proxy "$(if pgrep -x docker-proxy >/dev/null; then echo yes; else echo no; fi)"
  pair commit "$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)$([[ -z $(git -C "$ROOT" status --porcelain 2>/dev/null) ]] || echo ' and changes')"
  pair node_image "$(image_of "$node")"
  pair envoy_image "$(image_of "$envoy")"
  pair etcd_image "$(image_of "$member")"
  pair muster "$(docker exec "$node" muster --version) of $(docker inspect -f '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$node")"
  pair nginx "$(docker exec "$node" nginx -v 2>&1 | sed 's|.*/||')"
  pair envoy "$(docker exec "$envoy" envoy --version 2>/dev/null | grep -o '[0-9]\+\.[0-9]\+\.[0-9]\+' | head -n 1)"
  pair etcd "$(docker exec "$member" etcd --version 2>/dev/null | sed -n 's/^etcd Version: //p')"
  pair k6 "$("$K6" version | awk '{ print $2 }')"
  pair access_log "$(docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' "$node" | sed -n 's/^MUSTER_ACCESS_LOG=//p')"
  pair fleet "$NODES nodes, $(containers "" | wc -l) containers"
  printf '  "load_average": "%s"\n}\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
}

pair() {
  local value=${2//\\/\\\\}
  printf '  "%s": "%s",\n' "$1" "${value//\"/\\\"}"
}

image_of() { docker inspect -f '{{.Config.Image}} {{slice .Image 7 19}}' "$1"; }

describe() { sed -n 's/^  "\([a-z0-9_]*\)": "\(.*\)",\{0,1\}$/  \1: \2/p' "$ENVIRONMENT"; }

# One line a second: milliseconds, jiffies not idle, all jiffies, microseconds in which some task waited for a CPU.
# Beside a latency it tells whether the fleet was slow or the machine.
sample() {
  local user nice system idle iowait irq soft steal rest
  while :; do
    read -r _ user nice system idle iowait irq soft steal rest </proc/stat
    rest=total=0
    [[ ! -r /proc/pressure/cpu ]] || read -r rest </proc/pressure/cpu
    echo "${EPOCHREALTIME/./} $((user + nice + system + irq + soft + steal)) $((user + nice + system + irq + soft + steal + idle + iowait)) ${rest##*total=}"
    sleep 1
  done
}

machine() {
  awk '
    NR > 1 { busy += $2 - b; all += $3 - a; wait += $4 - w; time += $1 - t; p = ($4 - w) / ($1 - t); if (p > worst) worst = p }
    { t = $1; b = $2; a = $3; w = $4 }
    END { if (NR > 1) printf "machine: CPUs %.0f %% busy, somebody waited for one %.0f %% of the time, in the worst second %.0f %%\n", 100 * busy / all, 100 * wait / time, 100 * worst }
  ' "$OUT/machine" | tee "$OUT/machine.txt"
}

# What is needed to find out why, before the containers go.
evidence() {
  "${COMPOSE[@]}" logs --no-color --timestamps >"$OUT/fleet.log" 2>&1 || true
  envoy_counters >"$OUT/envoy.after"
  memory >"$OUT/memory" || true
  # Which way Envoy met the event: a slow request without any of these was slow for another reason.
  awk 'NR == FNR { before[$1] = $2; next }
    $1 ~ /^cluster\.nginx\.(upstream_rq_(retry|per_try_timeout|timeout|5xx)|upstream_cx_connect_(timeout|fail)|outlier_detection_ejections_enforced_total|health_check_failure|lb_healthy_panic):$/ {
      more = $2 - before[$1]; sub(/^cluster\.nginx\./, "", $1); text = text " " $1 " " more
    }
    END { print "envoy:" (text == "" ? " not asked" : text) }' "$OUT/envoy.before" "$OUT/envoy.after" | tee "$OUT/envoy.txt"
}

# Of both Envoys together, by the ports that their agents have on the containers' networks, whose bridges this machine is on.
envoy_counters() {
  local address
  address=$(docker inspect -f "{{(index .NetworkSettings.Networks \"${PROJECT}_fleet\").IPAddress}}" "$(containers "" front)")
  curl --noproxy '*' --silent --max-time 5 "http://$address:9902/metrics" "http://$address:9903/metrics" |
    sed -n -e 's/^envoy_cluster_\([a-z0-9_]*\){envoy_cluster_name="nginx"} /cluster.nginx.\1: /p' \
      -e 's/^envoy_cluster_\(upstream_rq_retry\){envoy_cluster_name="attempts"} /cluster.nginx.\1: /p' |
    awk '{ sum[$1] += $2 } END { for (name in sum) print name, sum[name] }' | sort || true
}

# MiB of the oldest node and of the Envoys, which live through a soak.
memory() {
  docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' "$(witness)" "$(containers "" envoy-a)" "$(containers "" envoy-b)" |
    awk '{ mib = $2 + 0; if ($2 ~ /GiB/) mib *= 1024; if ($2 ~ /KiB/) mib /= 1024; printf "%s %.1f\n", $1, mib }'
}

# Growth over a soak that is more than caches warming up.
MEMORY_MIB=32

memory_grown() {
  memory >"$OUT/memory.after"
  join <(sort "$OUT/memory.before") <(sort "$OUT/memory.after") | awk -v most="$MEMORY_MIB" '
    { bad = $3 - $2 > most; failed += bad; printf "%s  %s: %s MiB before, %s after (at most %d more)\n", bad ? "MISSED" : "ok    ", $1, $2, $3, most }
    END { exit failed > 0 || NR == 0 }'
}

# For `list`: when the list through Envoy said what had been done, counted from the start of the command.
list_times() {
  sed -n 's/.*LIST \([0-9]* [0-9]* [0-9]* [0-9.,]*\).*/\1/p' "$OUT/requests.log" >"$OUT/lists"
  awk '
    NR == FNR { at[NR] = $1; count[NR] = $3; ips[NR] = "," $4 ","; n = NR; next }
    {
      found = ""
      for (i = 1; i <= n; i++) {
        if (at[i] < $1) continue
        listed = index(ips[i], "," $4 ",") > 0
        if ($3 == "scale" ? count[i] == $4 : $3 ~ /start|unpause/ ? listed : !listed) { found = at[i] - $1; break }
      }
      printf "%s %s: the command took %d ms, the list says so after %s ms\n", $3, $4, $2 - $1, found == "" ? "?" : found
    }' "$OUT/lists" "$OUT/events" | tee "$OUT/list.txt"
}

# print_rows FILE...: one line a run, for all runs of this call.
print_rows() {
  local file
  printf '\n%-10s%9s%9s%8s%12s%12s%12s%12s%12s  %s\n' scenario sent 'not sent' failed 'steady p99' 'steady max' 'event p99' 'event max' 'after max' marks
  for file; do
    [[ ! -r $file ]] || awk -F'\t' '{ printf "%-10s%9s%9s%8s%12s%12s%12s%12s%12s  %s\n", $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 }' "$file"
  done
}
