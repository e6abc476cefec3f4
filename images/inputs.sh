#!/bin/sh
# What an image is made from, as one hash over names and contents: images/inputs.sh node|envoy|etcd|prometheus [ROOT]
#
# The same files give the same hash here and in the build of the image, whose file system has nothing but busybox.
# They are those that the stage `sources` of images/Dockerfile, or the image's own Dockerfile, copies.
set -eu

case ${1:-} in
node | envoy)
  set -- "$1" "${2:-}" Cargo.toml Cargo.lock agent/Cargo.toml agent/askama.toml agent/build.rs agent/proto agent/src \
    model/Cargo.toml testbed/Cargo.toml images/Dockerfile images/build-packages.txt images/inputs.sh images/nginx
  [ "$1" = node ] || set -- "$@" envoy/agents.yaml envoy/bootstrap.yaml envoy/own.yaml
  ;;
etcd) set -- "$1" "${2:-}" images/etcd/Dockerfile images/inputs.sh ;;
prometheus)
  set -- "$1" "${2:-}" images/prometheus/Dockerfile images/inputs.sh prometheus/consoles prometheus/prometheus.yaml \
    docs/alerts/muster.rules.yaml
  ;;
*)
  echo "error: images/inputs.sh node, envoy, etcd or prometheus, not '${1:-}'" >&2
  exit 1
  ;;
esac
cd "${2:-$(dirname "$0")/..}"
shift 2
# Names without spaces: all of them are the project's own.
files=$(find "$@" -type f | LC_ALL=C sort)
# shellcheck disable=SC2086
sums=$(sha256sum $files)
echo "$sums" | sha256sum | cut -c1-32
