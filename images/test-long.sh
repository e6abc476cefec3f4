#!/usr/bin/env bash
# What is worth more minutes than CI has: images/test-long.sh [aarch64] [without]
#
#   aarch64  the agent and nginx, cross-compiled and run under an emulator: hardening, version, exit codes, signals, /healthz,
#            and the list files of a node that is registered in a real etcd
#   without  one build package is taken out of the list: `make up` and `docker compose up` on bare machines fail and name it
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
cd "$ROOT"

PARTS="aarch64 without"
ZIG=0.15.2
ZIGBUILD=0.24.1
LONG=$CACHE/long
WORK=
STARTED=()

main() {
  local part started
  # shellcheck disable=SC2086 # a list of words
  (($# > 0)) || set -- $PARTS
  for part; do [[ " $PARTS " == *" $part "* ]] || fail "unknown part '$part': $PARTS"; done
  WORK=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  for part; do
    started=$(seconds)
    say "-- long: $part"
    "long_$part"
    say "-- long: $part passed in $(since "$started")"
  done
}

clean_up() {
  local pid
  for pid in "${STARTED[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$WORK"
}

# The one that was forgotten once.
long_without() { testbed/bare/run.sh --without libprotobuf-dev debian compose; }

long_aarch64() {
  local agent nginx=$LONG/nginx
  need_rust aarch64-unknown-linux-musl
  need_build all
  [[ $(id -u) == 0 ]] || fail "a node under the emulator needs root: it is PID 1 of a namespace of its own"
  need qemu-aarch64-static=qemu-user-static aarch64-linux-gnu-readelf=binutils-aarch64-linux-gnu
  zig
  say "   compiling the agent for aarch64 (minutes, kept in target)"
  PATH=$LONG/python/bin:$PATH PYTHONPATH=$LONG/python cargo zigbuild --quiet --release --locked --target aarch64-unknown-linux-musl -p muster
  agent=$ROOT/target/aarch64-unknown-linux-musl/release/muster
  build_nginx "$nginx"
  images/nginx/hardened.sh "$agent" "$nginx"
  say "   static and hardened: agent and nginx"
  exit_codes "$agent"
  a_node "$agent" "$nginx"
}

# A compiler for every target, from Python's packages, kept apart from the machine's own.
zig() {
  local python=python3
  python3 -m pip --version >/dev/null 2>&1 || { python=/usr/bin/python3 && need pip3=python3-pip; }
  [[ -x $LONG/python/bin/cargo-zigbuild ]] ||
    "$python" -m pip install --quiet --target "$LONG/python" "ziglang==$ZIG" "cargo-zigbuild==$ZIGBUILD" >"$CACHE/pip.log" 2>&1 ||
    fail "pip could not install ziglang and cargo-zigbuild: $(tail -n 2 "$CACHE/pip.log")"
  mkdir -p "$LONG/bin"
  cat >"$LONG/bin/zig-aarch64-cc" <<PROGRAM
#!/bin/sh
# What nginx's configure compiles it also runs: by the emulator, because this kernel knows no such programs. musl's own header
# compares signs where it is no system header to zig.
case " \$* " in *" -c "*) link= ;; *) link=-pie ;; esac
PYTHONPATH=$LONG/python $python -m ziglang cc -target aarch64-linux-musl "\$@" -Wno-sign-compare \$link || exit
case " \$* " in
  *" -o objs/autotest "*)
    mv objs/autotest objs/autotest.aarch64
    printf '#!/bin/sh\\nexec qemu-aarch64-static "%s/objs/autotest.aarch64" "\$@"\\n' "\$PWD" >objs/autotest
    chmod +x objs/autotest
    ;;
esac
PROGRAM
  chmod +x "$LONG/bin/zig-aarch64-cc"
}

build_nginx() {
  PATH=$LONG/bin:$PATH ARCH=aarch64 CC=zig-aarch64-cc STRIP=aarch64-linux-gnu-strip CONFIGURE="--crossbuild=Linux::aarch64" \
    images/nginx/build.sh "$1"
}

exit_codes() {
  local code=0
  emulated "$1" --version >"$WORK/version" || fail "muster --version under the emulator: $(cat "$WORK/version")"
  emulated "$1" run --ttl 0 >"$WORK/out" 2>&1 || code=$?
  ((code == 2)) || fail "a wrong flag ends with $code under the emulator: $(cat "$WORK/out")"
  code=0
  emulated "$1" status --etcd http://127.0.0.1:9 >"$WORK/out" 2>&1 || code=$?
  ((code == 4)) || fail "an etcd that is away ends status with $code under the emulator: $(cat "$WORK/out")"
  say "   $(cat "$WORK/version"): exit codes 0, 2, 4"
}

emulated() { qemu-aarch64-static "$@"; }

# A whole node under the emulator: registered in a real etcd, serving its list, and gone from it after TERM.
a_node() {
  local agent=$1 nginx=$2 address=127.77.0.1 etcd=http://127.77.0.2:2379 pid code=0
  images/parts.sh etcd >/dev/null 2>&1
  "$CACHE/parts/bin/etcd" --data-dir "$WORK/etcd" --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
    --listen-peer-urls http://127.77.0.2:2380 --initial-advertise-peer-urls http://127.77.0.2:2380 --initial-cluster "default=http://127.77.0.2:2380" \
    --log-level error >"$WORK/etcd.log" 2>&1 &
  STARTED+=($!)
  # The agent starts nginx by its name: a wrapper of that name runs it in the emulator too.
  printf '#!/bin/sh\nexec qemu-aarch64-static %s "$@"\n' "$nginx" >"$WORK/nginx"
  chmod +x "$WORK/nginx"
  # As PID 1 of a namespace, as in a container: the emulator knows no subreapers.
  unshare --pid --fork --mount-proc --kill-child qemu-aarch64-static "$agent" run --etcd "$etcd" --name emulated --listen "$address" --advertise "$address" --allow 127.0.0.0/8 --dir "$WORK/www" \
    --run-dir "$WORK/run" --nginx "$WORK/nginx" --drain-timeout 2 --log-format text >"$WORK/agent.log" 2>&1 &
  pid=$!
  STARTED+=("$pid")
  wait_for 60 lists "$address" || fail "the node under the emulator does not list itself: $(tail -n 5 "$WORK/agent.log")"
  curl --noproxy '*' --silent --fail "http://$address:8080/healthz" >/dev/null || fail "/healthz does not answer"
  pkill -TERM -P "$pid"
  wait "$pid" || code=$?
  ((code == 0)) || fail "TERM ends the node under the emulator with $code: $(tail -n 5 "$WORK/agent.log")"
  [[ -z $("$CACHE/parts/bin/etcdctl" --endpoints "$etcd" get --prefix /muster/nodes/ --keys-only) ]] || fail "the node that left is still registered"
  say "   a node: registered, /healthz, ips.txt, and gone after TERM with exit code 0"
}

lists() { [[ $(curl --noproxy '*' --silent --max-time 2 "http://$1:8080/ips.txt") == "$1" ]]; }

main "$@"
