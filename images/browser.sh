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

main() {
  # The fonts too: without any, Chromium draws boxes.
  [[ -x /usr/bin/chromium ]] || install_packages chromium fonts-dejavu-core
  python_venv "$VENV" "playwright==$PLAYWRIGHT" "pillow==$PILLOW" "axe-playwright-python==$AXE"
  exec "$VENV/bin/python" "$@"
}

main "$@"
