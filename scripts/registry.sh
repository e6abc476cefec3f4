#!/bin/sh
# What etcd holds, into a file and back: scripts/registry.sh backup [FILE] | restore FILE
#
# Nothing in it is missed: nodes register again by themselves. A restore is for what people put there, such as marks, and
# for members whose data is lost. Requests are served meanwhile, with the last list.
set -eu
umask 022
ROOT=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$ROOT/scripts/lib.sh"
# shellcheck source=scripts/kernel.sh
. "$ROOT/scripts/kernel.sh"
# shellcheck source=scripts/tls.sh
. "$ROOT/scripts/tls.sh"

LOG=$CACHE/registry.log
HELPER=
VOLUME=
PART=
# While etcd is stopped by this script.
STOPPED=

main() {
  what=${1:-}
  file=${2:-}
  case $what in
    backup) ;;
    restore) [ -n "$file" ] || fail "which file? make restore FILE=muster.db" ;;
    *) fail "scripts/registry.sh backup [FILE], or restore FILE" ;;
  esac
  # Before the directory changes: it is relative to the caller's.
  case $file in "" | /*) ;; *) file=$PWD/$file ;; esac
  cd "$ROOT"
  need_engine
  find_project
  compose_files
  : >"$LOG"
  HELPER=$PROJECT-registry-$$
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  started=$(seconds)
  "$what"
}

# By root's certificate: a snapshot is the whole database, with etcd's users.
backup() {
  file=${file:-$ROOT/muster-$(date -u +%Y%m%dT%H%M%SZ).db}
  [ ! -e "$file" ] || fail "$file exists already: choose another file name"
  if ! [ -d "${file%/*}" ] || ! [ -w "${file%/*}" ]; then fail "${file%/*} is no directory that can be written"; fi
  endpoint=$(healthy_member)
  # A volume takes the owner of the image's own directory, so that the program may write there.
  VOLUME=$HELPER
  compose run --name "$HELPER" --no-deps -T --volume "$VOLUME:/home/nonroot" --env ETCDCTL_ENDPOINTS="$endpoint" \
    etcd-root etcdctl snapshot save /home/nonroot/snapshot.db || fail "no snapshot could be taken: $(tail -n 3 "$LOG")"
  PART=$file.part
  (umask 077 && docker cp "$HELPER:/home/nonroot/snapshot.db" "$PART" >/dev/null)
  # As docker cp leaves it, it belongs to the user in the container.
  chmod 0600 "$PART"
  mv "$PART" "$file"
  PART=
  say "backup: $(wc -c <"$file" | tr -d ' ') bytes in $file ($(since "$started"))"
}

# One endpoint, because a snapshot is one member's.
healthy_member() {
  for member in $MEMBERS; do
    if member_healthy "$member" >>"$LOG" 2>&1; then
      echo "https://$member:2379"
      return
    fi
  done
  fail "no member of etcd is healthy: docker compose ps"
}

# All members from the same file, each under its own name, made beside the data in use; then all are exchanged at once. The
# old data stays beside the new until the next restore.
restore() {
  if ! [ -r "$file" ] || ! [ -f "$file" ]; then fail "$file cannot be read"; fi
  [ -n "$(containers -a etcd1)" ] || fail "no fleet is here (project $PROJECT): make up, then make restore"
  alone "make restore"
  looks_whole
  for member in $MEMBERS; do prepare_member "$member"; done
  say "etcd stops; nginx and Envoy serve on with the last list"
  STOPPED=yes
  compose stop --timeout 10 etcd1 etcd2 etcd3 || fail "etcd did not stop: $(tail -n 3 "$LOG")"
  for member in $MEMBERS; do
    exchange "$member" || fail "$member: $(tail -n 1 "$LOG")"
  done
  compose start etcd1 etcd2 etcd3 || fail "etcd did not start: $(tail -n 3 "$LOG")"
  STOPPED=
  await_agreement
  say "restored: registry, files and Envoy agree ($(since "$started"))"
}

# Before anything is stopped: every snapshot ends with its own checksum, which etcdctl looks at.
looks_whole() {
  docker volume create "$HELPER" >/dev/null
  VOLUME=$HELPER
  try_restore "$HELPER" etcd1 /home/nonroot/try || fail "$file is no whole snapshot, and nothing was changed: $(tail -n 1 "$LOG")"
  docker rm -f "$HELPER" >/dev/null
}

# prepare_member MEMBER: while it runs on with its own.
prepare_member() {
  member_volume=${PROJECT}_$1-tls
  in_volume "$member_volume" rm -rf /home/nonroot/restored /home/nonroot/before || fail "the volume $member_volume: $(tail -n 1 "$LOG")"
  try_restore "$member_volume" "$1" /home/nonroot/restored || fail "$1 could not be prepared, and nothing was changed: $(tail -n 3 "$LOG")"
  docker rm -f "$HELPER" >/dev/null
}

# exchange MEMBER: one without data has lost it.
exchange() {
  in_volume "${PROJECT}_$1-tls" sh -c 'cd /home/nonroot && { [ ! -e data ] || mv data before; } && mv restored data'
}

# What was exchanged goes back, and etcd starts again: on every way out but the good one.
undo() {
  [ -n "$STOPPED" ] || return 0
  say "the restore did not come to its end: etcd starts with the data it had"
  # They may be stopped already.
  compose stop --timeout 10 etcd1 etcd2 etcd3 || true
  for member in $MEMBERS; do
    in_volume "${PROJECT}_$member-tls" sh -c \
      'cd /home/nonroot && { [ ! -e before ] || { rm -rf restored && { [ ! -e data ] || mv data restored; } && mv before data; }; }' ||
      warn "$member: its data is in the directory \"before\" of the volume ${PROJECT}_$member-tls"
  done
  compose start etcd1 etcd2 etcd3 || warn "etcd did not start: make up"
}

# try_restore VOLUME MEMBER DIRECTORY: with the program of the member's own image, and no network.
try_restore() {
  docker create --name "$HELPER" --network none --user 65532:65532 --cap-drop ALL --volume "$1:/home/nonroot" --entrypoint etcdctl \
    "$(setting MUSTER_ETCD_TAG)" snapshot restore /tmp/snapshot.db --data-dir "$3" --name "$2" \
    --initial-cluster etcd1=https://peer1:2380,etcd2=https://peer2:2380,etcd3=https://peer3:2380 \
    --initial-cluster-token muster --initial-advertise-peer-urls "https://peer${2#etcd}:2380" >>"$LOG" 2>&1 || return 1
  # A copy that everyone may read: docker cp keeps the mode, and the owner is another one in there. It is in a directory of this
  # user's own here, and in that container alone.
  copied=$(mktemp -d)
  code=0
  { cp "$file" "$copied/snapshot.db" && chmod 0444 "$copied/snapshot.db" &&
    docker cp "$copied/snapshot.db" "$HELPER:/tmp/snapshot.db" && docker start --attach "$HELPER"; } >>"$LOG" 2>&1 || code=$?
  rm -rf "$copied"
  return "$code"
}

# in_volume VOLUME COMMAND...: by the front's image, because etcd's own has no shell.
in_volume() {
  in_volume_name=$1
  shift
  docker run --rm --network none --user 65532:65532 --cap-drop ALL --volume "$in_volume_name:/home/nonroot" \
    "$(setting MUSTER_FRONT_TAG)" "$@" >>"$LOG" 2>&1
}

await_agreement() {
  [ -n "$(awake_node)" ] || { say "no node runs that could be asked"; return; }
  # A restored registry is another history: every node registers again, and short lists are held back meanwhile.
  in_a_node verify --wait "$PATIENCE" >>"$LOG" 2>&1 ||
    fail "registry, files and Envoy do not agree after $PATIENCE s: make verify names the differences"
}

compose() { docker compose "$@" >>"$LOG" 2>&1 </dev/null; }

clean_up() {
  trap '' INT TERM HUP
  undo
  [ -z "$PART" ] || rm -f "$PART"
  [ -z "$HELPER" ] || docker rm -f "$HELPER" >/dev/null 2>&1 || true
  [ -z "$VOLUME" ] || docker volume rm "$VOLUME" >/dev/null 2>&1 || true
  release
}

main "$@"
