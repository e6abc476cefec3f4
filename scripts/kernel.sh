# shellcheck shell=sh
# Sourced by the scripts that run `docker compose`: `front` without the switches that the engine's kernel does not have.
# Beside lib.sh and tls.sh, in the project's directory.

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

# After all others, because the last one counts.
kernel_is_old() { add_compose_file compose.old-kernel.yaml; }
