#!/usr/bin/env bash
# A browser for tests and pictures: images/browser.sh PROGRAM.py [ARGUMENT...] runs a Python program that has Playwright
# and Debian's Chromium.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
cd "$ROOT"

# A newer one must know Debian's Chromium: try it with `make test-page`.
PLAYWRIGHT=1.65.2
PILLOW=13.0.0
# Carries axe-core, which judges how a page reads to those who do not see it as drawn.
AXE=0.1.8
VENV=$CACHE/venv
MADE=$VENV/made-$PLAYWRIGHT-$PILLOW-$AXE

main() {
  # The fonts too: without any, Chromium draws boxes.
  [[ -x /usr/bin/chromium ]] || install_packages chromium fonts-dejavu-core
  [[ -f $MADE ]] || make_venv
  exec "$VENV/bin/python" "$@"
}

make_venv() {
  local log=$CACHE/venv.log python=python3
  rm -rf "$VENV"
  if ! "$python" -m venv "$VENV" >"$log" 2>&1; then
    install_packages python3-venv
    /usr/bin/python3 -m venv "$VENV" >"$log" 2>&1 || fail "no virtual environment: $(tail -n 2 "$log")"
  fi
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
    "playwright==$PLAYWRIGHT" "pillow==$PILLOW" "axe-playwright-python==$AXE" >"$log" 2>&1 ||
    fail "pip could not install Playwright: $(tail -n 2 "$log")"
  touch "$MADE"
}

main "$@"
