#!/usr/bin/env bash
# Says what is missing in a program that is to stand in the node's image: images/nginx/hardened.sh FILE...
#
# Static, position independent, no writable code and no executable stack, relocations read-only from the start, and
# nothing left to look up later. In C also stack canaries: read off the instructions, because the symbols are stripped; they
# are the program's own only on x86_64, so for aarch64 images/nginx/build.sh looks at the objects. Needs readelf and objdump.
set -euo pipefail

missing=0
complain() {
  echo "error: $file: $*" >&2
  missing=1
}

for file; do
  headers=$(readelf -hlW "$file")
  dynamic=$(readelf -dW "$file")
  # Rust links static programs for aarch64 at a fixed address, and they have nothing to bind.
  fixed=
  [[ $(basename "$file") == nginx || $headers != *AArch64* ]] || fixed=yes
  [[ -n $fixed ]] || grep -q 'Type: *DYN' <<<"$headers" || complain "is not position independent"
  ! grep -qw INTERP <<<"$headers" || complain "asks for a loader: it is dynamic"
  ! grep -qw NEEDED <<<"$dynamic" || complain "needs libraries: it is dynamic"
  ! grep -qw TEXTREL <<<"$dynamic" || complain "has relocations in its code"
  grep -qE 'GNU_STACK .* RW +0' <<<"$headers" || complain "has an executable stack"
  ! grep -qE 'LOAD .* RWE' <<<"$headers" || complain "has memory that is writable and executable"
  grep -qw GNU_RELRO <<<"$headers" || complain "has no RELRO"
  [[ -n $fixed ]] || grep -qE 'BIND_NOW|FLAGS_1.* NOW' <<<"$dynamic" || complain "binds lazily"
  [[ $(basename "$file") != nginx || $headers != *X86-64* ]] || (($(objdump -d "$file" | grep -c '%fs:0x28') > 100)) || complain "has no stack canaries"
done
exit "$missing"
