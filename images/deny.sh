#!/usr/bin/env bash
# What may be compiled in: licences, bans and sources always, known vulnerabilities (RUSTSEC advisories) where their database can be reached.
# images/deny.sh; the rules are in deny.toml.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"

CARGO_DENY=0.20.2

cd "$ROOT"
need_rust host
cargo_tool cargo-deny "$CARGO_DENY"
deny=("$CACHE/tools/bin/cargo-deny" --locked --log-level warn check --hide-inclusion-graph)
"${deny[@]}" bans licenses sources
if timeout 120 git ls-remote --exit-code https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
  "${deny[@]}" advisories
else
  warn "known vulnerabilities were not looked for: the database at github.com/RustSec/advisory-db cannot be reached"
fi
