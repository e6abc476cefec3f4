#!/usr/bin/env bash
# What etcd holds, into a file and back: images/registry.sh backup [FILE] | restore FILE
#
# Nothing in it is missed: nodes register again by themselves. A restore is for what people put there, such as marks, and
# for members whose data is lost. Requests are served meanwhile, with the last list.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
# shellcheck source=images/tls.sh
source "$(dirname "$0")/tls.sh"
# shellcheck source=images/project.sh
source "$(dirname "$0")/project.sh"

MEMBERS="etcd1 etcd2 etcd3"
LOG=$CACHE/registry.log
HELPER=
VOLUME=
# While etcd is stopped by us.
STOPPED=

main() {
  local file=${2:-}
  [[ ${1:-} == backup || (${1:-} == restore && -n $file) ]] || fail "images/registry.sh backup [FILE], or restore FILE"
  # Before the directory changes: it is relative to the caller's.
  [[ -z $file ]] || file=$(realpath --canonicalize-missing "$file")
  cd "$ROOT"
  engine_answers || fail "$(engine_complaint)"
  compose_is_there
  tls_settings
  : >"$LOG"
  HELPER=$PROJECT-registry-$$
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  "$1" "$file"
}

# By root's certificate: a snapshot is the whole database.
backup() {
  local file=${1:-$ROOT/muster-$(date -u +%Y%m%dT%H%M%SZ).db} started endpoint
  started=$(seconds)
  [[ ! -e $file ]] || fail "$file is there already: another name, please"
  [[ -d ${file%/*} && -w ${file%/*} ]] || fail "${file%/*} is no directory that can be written"
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
  say "backup: $(stat -c %s "$file") bytes in $file ($(since "$started"))"
}

# One endpoint, because a snapshot is one member's.
healthy_member() {
  local member
  for member in $MEMBERS; do
    ! timeout 10 docker exec "$(containers "" "$member")" etcdctl endpoint health --command-timeout=2s >>"$LOG" 2>&1 ||
      { echo "https://$member:2379"; return; }
  done
  fail "no member of etcd is healthy: docker compose ps"
}

# All members from the same file, each under its own name, made beside the data in use; then all are exchanged at once. The
# old data stays beside the new until the next restore.
restore() {
  local file=$1 started member
  started=$(seconds)
  [[ -r $file && -f $file ]] || fail "$file cannot be read"
  [[ -n $(containers -a etcd1) ]] || fail "no fleet is here (project $PROJECT): make up, then make restore"
  alone "make restore"
  looks_whole "$file"
  for member in $MEMBERS; do prepare_member "$member" "$file"; done
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
  try_restore "$HELPER" "$1" etcd1 /home/nonroot/try || fail "$1 is no whole snapshot, and nothing was changed: $(tail -n 1 "$LOG")"
  docker rm -f "$HELPER" >/dev/null
}

# prepare_member MEMBER FILE: while it runs on with its own.
prepare_member() {
  local volume=${PROJECT}_$1-tls
  in_volume "$volume" rm -rf /home/nonroot/restored /home/nonroot/before || fail "the volume $volume: $(tail -n 1 "$LOG")"
  try_restore "$volume" "$2" "$1" /home/nonroot/restored || fail "$1 could not be prepared, and nothing was changed: $(tail -n 3 "$LOG")"
  docker rm -f "$HELPER" >/dev/null
}

# exchange MEMBER: one without data has lost it.
exchange() {
  in_volume "${PROJECT}_$1-tls" sh -c 'cd /home/nonroot && { [ ! -e data ] || mv data before; } && mv restored data'
}

# What was exchanged goes back, and etcd starts again: on every way out but the good one.
undo() {
  local member
  [[ -n $STOPPED ]] || return 0
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

# try_restore VOLUME FILE MEMBER DIRECTORY: with the program of the member's own image, and no network.
try_restore() {
  # shellcheck disable=SC2129 # three commands, each with its own end
  docker create --name "$HELPER" --network none --user 65532:65532 --cap-drop ALL --volume "$1:/home/nonroot" --entrypoint etcdctl \
    "$(setting MUSTER_ETCD_TAG)" snapshot restore /tmp/snapshot.db --data-dir "$4" --name "$3" \
    --initial-cluster etcd1=https://peer1:2380,etcd2=https://peer2:2380,etcd3=https://peer3:2380 \
    --initial-cluster-token muster --initial-advertise-peer-urls "https://peer${3#etcd}:2380" >>"$LOG" 2>&1
  # From standard input, so that the container's user may read it whoever owns it here; nobody else is in there.
  tar -C "$(dirname "$2")" --owner=65532 --group=65532 --mode=0444 --transform 's|.*|snapshot.db|' -c "$(basename "$2")" |
    docker cp - "$HELPER:/tmp" >>"$LOG" 2>&1
  docker start --attach "$HELPER" >>"$LOG" 2>&1
}

# in_volume VOLUME COMMAND...: by the front's image, because etcd's own has no shell.
in_volume() {
  local volume=$1
  shift
  docker run --rm --network none --user 65532:65532 --cap-drop ALL --volume "$volume:/home/nonroot" \
    "$(setting MUSTER_FRONT_TAG)" "$@" >>"$LOG" 2>&1
}

await_agreement() {
  local node
  node=$(awake_node)
  [[ -n $node ]] || { say "no node runs that could be asked"; return; }
  # A restored registry is another history: every node registers again, and short lists are held back meanwhile.
  timeout --foreground $((PATIENCE + 30)) docker exec "$node" muster verify --wait "$PATIENCE" >>"$LOG" 2>&1 ||
    fail "registry, files and Envoy do not agree after $PATIENCE s: make verify names the differences"
}

compose() { docker compose "$@" >>"$LOG" 2>&1 </dev/null; }

clean_up() {
  trap '' INT TERM HUP
  undo
  [[ -z ${PART:-} ]] || rm -f "$PART"
  [[ -z $HELPER ]] || docker rm -f "$HELPER" >/dev/null 2>&1 || true
  [[ -z $VOLUME ]] || docker volume rm "$VOLUME" >/dev/null 2>&1 || true
}

main "$@"
