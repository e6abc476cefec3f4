# shellcheck shell=bash
# Sourced: what runs beside the shell during the load. LOAD is k6, FAULT what happens to the fleet, SAMPLER how busy the
# machine is; each is a process id, or empty.

# load_has_begun SECONDS: ZERO becomes the time at which k6 began to send, and the machine is looked at from then on.
load_has_begun() {
  local deadline=$((SECONDS + $1))
  until ZERO=$(sed -n 's/.*START \([0-9]*\).*/\1/p' "$OUT/requests.log" 2>/dev/null) && [[ -n $ZERO ]]; do
    if ! kill -0 "$LOAD" 2>/dev/null || ((SECONDS >= deadline)); then
      fail "k6 did not start: $(tail -n 5 "$OUT/k6.log")"
    fi
    sleep 0.05
  done
  sample >"$OUT/machine" &
  SAMPLER=$!
}

sampling_ends() {
  kill "$SAMPLER"
  # Ended by a signal, as it should.
  wait "$SAMPLER" 2>/dev/null || true
  SAMPLER=
}

# On every way out: whatever still runs, and what it started. One that has ended by itself is no failure.
end_beside() {
  local pid
  for pid in ${FAULT:-} ${LOAD:-} ${SAMPLER:-}; do
    pkill -TERM -P "$pid" 2>/dev/null || true
    kill "$pid" 2>/dev/null || true
  done
}
