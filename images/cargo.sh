#!/usr/bin/env bash
# images/cargo.sh ARGUMENT...: cargo, after a look whether all that it compiles with is here.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"

need_rust host
need_build all
cd "$ROOT"
exec cargo "$@"
