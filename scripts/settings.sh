# shellcheck shell=sh
# Sourced beside lib.sh: what a setting may be. Each wrong one is a sentence with its place, and nothing is started then.

MAX_NODES=200

# check_settings: all that .env and the environment say.
check_settings() {
  WRONG=0
  while read -r name kind low high; do
    case $name in "" | "#"*) continue ;; esac
    check_setting "$name" "$(optional "$name")" "$kind" "$low" "$high"
  done <<KNOBS
MUSTER_BIND address
MUSTER_PORT number 1 65535
MUSTER_TLS_PORT number 1 65535
MUSTER_PROMETHEUS_PORT number 1 65535
MUSTER_GRAFANA_PORT number 1 65535
MUSTER_NODES number 1 $MAX_NODES
MUSTER_TTL number 2 60
MUSTER_DRAIN_TIMEOUT number 0 600
MUSTER_STOP_GRACE number 5 3600
MUSTER_PKI_DAYS number 1 3650
MUSTER_SITE_OPTIONS options
MUSTER_LOG_FORMAT word auto,json,text
MUSTER_ACCESS_LOG word all,errors,off
MUSTER_TRUSTED_PROXIES number 0 16
MUSTER_FALLBACK page
MUSTER_FLEET name 63
ENVOY_ID name 62
ENVOY_CONCURRENCY number 1 256
ENVOY_LOG word trace,debug,info,warning,error,critical,off
ETCD_LOG word debug,info,warn,error,panic,fatal
ETCD_QUOTA number 16777216 8589934592
ETCD_HEARTBEAT number 10 10000
ETCD_ELECTION number 50 50000
ETCD_COMPACTION duration
MUSTER_NODE_MEMORY size
ENVOY_MEMORY size
ETCD_MEMORY size
PROMETHEUS_MEMORY size
PROMETHEUS_DAYS number 1 3650
KNOBS
  check_site
  [ "$WRONG" = 0 ] || fail "$WRONG of the settings cannot be used, and nothing was started"
}

# check_setting NAME VALUE KIND LOW HIGH
check_setting() {
  case $3 in
    number)
      if ! is_number "$2" "$4" "$5"; then wrong "$1" "$2" "a number from $4 to $5"; fi ;;
    word)
      case ",$4," in
        *",$2,"*) [ -n "$2" ] || wrong "$1" "$2" "one of $4" ;;
        *) wrong "$1" "$2" "one of $4" ;;
      esac ;;
    page)
      case $2 in
        none) ;;
        *[!A-Za-z0-9._~/-]* | */ | *//* | */.* | [!/]* | "") wrong "$1" "$2" "none, or a page of the site such as /index.html" ;;
      esac ;;
    options)
      case $2 in ro | ro,z | ro,Z) ;; *) wrong "$1" "$2" "ro, or with SELinux ro,z" ;; esac ;;
    name)
      # Of these characters only, or a space in a name would end it somewhere else.
      case $2 in "" | *[!A-Za-z0-9._-]*) wrong "$1" "$2" "letters, digits, '.', '_' and '-'" ;; esac
      [ "${#2}" -le "$4" ] || wrong "$1" "$2" "at most $4 characters" ;;
    address)
      printf '%s\n' "$2" | awk -F. '{ ok = NF == 4; for (i = 1; i <= NF; i++) ok = ok && $i ~ /^[0-9]+$/ && $i < 256; exit !ok }' ||
        wrong "$1" "$2" "an IPv4 address of this machine, such as 127.0.0.1 or 0.0.0.0" ;;
    duration)
      printf '%s\n' "$2" | grep -qE '^([0-9]+(ms|s|m|h))+$' || wrong "$1" "$2" "a duration such as 1h or 90m" ;;
    size)
      printf '%s\n' "$2" | grep -qE '^[1-9][0-9]*[kKmMgG]?[bB]?$' || wrong "$1" "$2" "a size such as 256m or 1g" ;;
  esac
}

# is_number VALUE LOW HIGH
is_number() {
  case $1 in "" | 0?* | *[!0-9]* | ??????????????????*) return 1 ;; esac
  [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]
}

# A directory that is not there would be made by the engine, empty and root's.
check_site() {
  site=$(optional MUSTER_SITE_DIR)
  case $site in
    /* | ./* | ../* | "~"*) [ -d "$site" ] || wrong MUSTER_SITE_DIR "$site" "a directory that is there" ;;
    "" | *[!A-Za-z0-9._-]*) wrong MUSTER_SITE_DIR "$site" "'site', or a directory that begins with ./ or /" ;;
  esac
}

# wrong NAME VALUE WANTED
wrong() {
  WRONG=$((WRONG + 1))
  # The environment wins, so that a value which .env does not have came from there.
  place=$(grep -nE "^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=" "$ROOT/.env" 2>/dev/null | tail -n 1 | cut -d: -f1)
  if printenv "$1" >/dev/null 2>&1 || [ -z "$place" ]; then place="the environment"; else place=".env, line $place"; fi
  say "$place: $1 is '$2', allowed is $3"
}

# check_count COUNT WHAT
check_count() {
  is_number "$1" 1 "$MAX_NODES" || fail "$2 is '$1', allowed is a number of nodes from 1 to $MAX_NODES, for example make scale N=5"
}
