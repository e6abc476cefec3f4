# shellcheck shell=sh
# Sourced by the scripts that run `docker compose`: `front` without the switches that the engine's kernel does not have.
# Needs `say`, `fail` and `containers` of its caller, whose directory is the project's.

# kernel_settings: as the fleet that runs was started.
kernel_settings() {
  kernel_front=$(containers "" front)
  [ -n "$kernel_front" ] || return 0
  [ "$(docker inspect -f '{{len .HostConfig.Sysctls}}' "$kernel_front")" != 0 ] || kernel_is_old
}

# kernel_check: before a start. Asks for what is asked for: no list of kernels, and a switch of one's own counts as well.
kernel_check() {
  [ -z "$(containers "" front)" ] || { kernel_settings; return; }
  kernel_said=$(docker compose run --rm --no-deps -T front true 2>&1) && return 0
  case $kernel_said in
    *sysctl*"no such file"* | */proc/sys/*"no such file"*) ;;
    # Whatever else is wrong, the start itself says so.
    *) return 0 ;;
  esac
  kernel_is_old
  say "this kernel does not have $(kernel_missing "$kernel_said"): front starts without it. A connection that waits in the queue of an Envoy that ends is reset; Linux 5.14 or newer hands it to the other one."
}

# kernel_missing MESSAGE: the switch that the engine's error names.
kernel_missing() {
  kernel_name=$(printf '%s\n' "$1" | sed -n 's|.*/proc/sys/\([a-z0-9_/]*\).*|\1|p' | head -n 1 | tr / .)
  echo "${kernel_name:-a switch of front (sysctls in compose.yaml)}"
}

# Makes `docker compose` of this script take compose.old-kernel.yaml too, after all others.
kernel_is_old() {
  kernel_files=${COMPOSE_FILE:-$(docker compose config --environment 2>/dev/null | sed -n 's/^COMPOSE_FILE=//p')}
  if [ -z "$kernel_files" ]; then
    # Named files replace those that Compose finds by itself.
    kernel_files=compose.yaml
    [ ! -e compose.override.yaml ] || kernel_files=$kernel_files:compose.override.yaml
  fi
  case :$kernel_files: in
    *:compose.old-kernel.yaml:*) ;;
    *) kernel_files=$kernel_files:compose.old-kernel.yaml ;;
  esac
  COMPOSE_FILE=$kernel_files
  export COMPOSE_FILE
}
