#!/usr/bin/env bash
# The workflows of GitHub and dependabot's file against their schemas, and against zizmor's rules for what an attacker may use.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
cd "$ROOT"

# Both bring schemas and rules with them and ask nobody; neither can know whether a pinned action exists.
CHECK_JSONSCHEMA=0.39.0
ZIZMOR=1.32.0
VENV=$CACHE/venv-workflows
LOG=$CACHE/workflows.log

main() {
  python_venv "$VENV" "check-jsonschema==$CHECK_JSONSCHEMA" "zizmor==$ZIZMOR"
  "$VENV/bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml >"$LOG" 2>&1 || fail "$(cat "$LOG")"
  "$VENV/bin/check-jsonschema" --builtin-schema vendor.dependabot .github/dependabot.yml >"$LOG" 2>&1 || fail "$(cat "$LOG")"
  "$VENV/bin/zizmor" --offline --no-progress --format plain .github >"$LOG" 2>&1 || fail "$(cat "$LOG")"
}

main
