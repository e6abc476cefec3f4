#!/bin/sh
# A unit for systemd that brings the fleet up with the engine, after a boot and after the engine's own restart:
# scripts/unit.sh install|remove
#
# By itself the engine may leave the two Envoys out: they share the network of another container, which has to run first, and
# the engine neither keeps that order nor tries again. See docs/availability.md.
set -eu
umask 022
ROOT=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$ROOT/scripts/lib.sh"

UNIT_DIRECTORY=${UNIT_DIRECTORY:-/etc/systemd/system}

main() {
  find_project
  unit=$UNIT_DIRECTORY/$PROJECT.service
  case ${1:-} in
    install) install_unit ;;
    remove) remove_unit ;;
    *) fail "scripts/unit.sh install, or remove" ;;
  esac
}

install_unit() {
  [ -d "$UNIT_DIRECTORY" ] || mkdir -p "$UNIT_DIRECTORY" || fail "$UNIT_DIRECTORY cannot be made: sudo make install-unit"
  [ -w "$UNIT_DIRECTORY" ] || fail "$UNIT_DIRECTORY cannot be written: sudo make install-unit"
  case $ROOT in *[!A-Za-z0-9/._-]*) fail "systemd wants a path without spaces and the like, and the project lies in $ROOT" ;; esac
  cat >"$unit" <<UNIT
[Unit]
Description=muster fleet of the Compose project $PROJECT
Documentation=file://$ROOT/docs/availability.md
After=docker.service network-online.target
Requires=docker.service

[Service]
Type=oneshot
Environment=COMPOSE_PROJECT_NAME=$PROJECT
ExecStart=$ROOT/scripts/fleet.sh start
TimeoutStartSec=300
# 3: the fleet serves, and a member of etcd does not answer.
SuccessExitStatus=3
Restart=on-failure
RestartSec=10

[Install]
# Each start of the engine wants it: a boot, a restart by hand, and the one after a crash.
WantedBy=docker.service
UNIT
  say "written: $unit"
  if command -v systemctl >/dev/null 2>&1 && [ "$UNIT_DIRECTORY" = /etc/systemd/system ]; then
    if ! systemctl daemon-reload || ! systemctl enable "$PROJECT.service"; then fail "systemd did not take $unit"; fi
    say "the fleet comes up with the engine from now on: systemctl status $PROJECT, sudo make remove-unit undoes it"
  fi
}

remove_unit() {
  [ -e "$unit" ] || fail "$unit is not there"
  ! command -v systemctl >/dev/null 2>&1 || systemctl disable "$PROJECT.service" || true
  rm -f "$unit"
  say "removed: $unit"
}

main "$@"
