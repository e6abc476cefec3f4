#!/usr/bin/env bash
# What the node's image is made of, as CycloneDX: images/sbom.sh; writes target/sbom/node.cdx.json
#
# Of the crates cargo-cyclonedx says it; of the base its own package database, less what images/Dockerfile removes;
# images/sbom.py joins both with nginx. The same image and lock file give the same bytes.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"

# Both by the CycloneDX project itself. A newer one is taken after a review.
CARGO_CYCLONEDX=0.5.9
PYTHON_LIB=11.12.0
TARGET=$(uname -m)-unknown-linux-musl
OUT=$ROOT/target/sbom

main() {
  need_rust host
  need python3=python3
  engine_answers || fail "no container engine answers: the image cannot be read"
  "$ROOT/images/build.sh" node
  cargo_tool cargo-cyclonedx "$CARGO_CYCLONEDX"
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK" "$ROOT"/{agent,model,testbed}/.muster-sbom.json' EXIT
  mkdir -p "$OUT"
  unpack
  # It writes one beside each manifest of the workspace.
  (cd "$ROOT" && "$CACHE/tools/bin/cargo-cyclonedx" cyclonedx --quiet --manifest-path agent/Cargo.toml --format json \
    --spec-version 1.5 --target "$TARGET" --no-build-deps --override-filename .muster-sbom)
  python3 "$ROOT/images/sbom.py" join --crates "$ROOT/agent/.muster-sbom.json" --work "$WORK" \
    --lock "$ROOT/images/nginx/Cargo.lock" --root "$ROOT" >"$OUT/node.cdx.json"
  validate
  say "target/sbom/node.cdx.json: $(python3 "$ROOT/images/sbom.py" count "$OUT/node.cdx.json")"
}

# The image's files, its two programs, and the base's database, which the image itself has not any more.
unpack() {
  local node base
  node=$(docker create "$(setting MUSTER_NODE_TAG)")
  docker export "$node" | tar -x -C "$WORK" -f - usr/local/bin
  docker export "$node" | tar -t >"$WORK/files"
  docker rm "$node" >/dev/null
  base=$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "$(setting MUSTER_NODE_TAG)")
  base=$(docker create "$base" true)
  # The stand-in has none.
  docker export "$base" | tar -x -C "$WORK" -f - lib/apk/db/installed etc/os-release 2>/dev/null || true
  docker rm "$base" >/dev/null
}

# Against the published schema, by the library that carries it.
validate() {
  local library=$CACHE/tools/cyclonedx-$PYTHON_LIB python=python3
  "$python" -m pip --version >/dev/null 2>&1 || { python=/usr/bin/python3 && need_pip; }
  if [[ ! -d $library ]]; then
    "$python" -m pip install --quiet --target "$library.new" "cyclonedx-python-lib[json-validation]==$PYTHON_LIB" >"$CACHE/pip.log" 2>&1 ||
      fail "pip could not install cyclonedx-python-lib: $(tail -n 2 "$CACHE/pip.log")"
    mv "$library.new" "$library"
  fi
  PYTHONPATH=$library "$python" "$ROOT/images/sbom.py" validate "$OUT/node.cdx.json"
}

need_pip() { /usr/bin/python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip; }

main "$@"
