# shellcheck shell=bash
# Sourced by fleet.sh: TLS for the public. MUSTER_TLS_CERT and MUSTER_TLS_KEY turn it on; Envoy is given their directories.

# Whom Envoy runs as.
ENVOY_UID=65532

# optional NAME: as `setting`, and nothing when it is not set.
optional() {
  if [[ -v $1 ]]; then
    echo "${!1}"
  else
    sed -n "s/^$1=//p" "$ROOT/.env"
  fi
}

tls_is_wanted() { [[ -n $(optional MUSTER_TLS_CERT)$(optional MUSTER_TLS_KEY) ]]; }

# Makes `docker compose` of this script take compose.tls.yaml too, and tells it and Envoy where the files are.
tls_settings() {
  local files
  tls_is_wanted || return 0
  TLS_CERT=$(tls_file MUSTER_TLS_CERT)
  TLS_KEY=$(tls_file MUSTER_TLS_KEY)
  export MUSTER_TLS_CERT_DIR=${TLS_CERT%/*} MUSTER_TLS_KEY_DIR=${TLS_KEY%/*}
  files=$(optional COMPOSE_FILE)
  if [[ -z $files ]]; then
    # Named files replace those that Compose finds by itself.
    files=compose.yaml
    [[ ! -e compose.override.yaml ]] || files+=:compose.override.yaml
  fi
  [[ :$files: == *:compose.tls.yaml:* ]] || files+=:compose.tls.yaml
  export COMPOSE_FILE=$files
  mkdir -p "$CACHE/tls"
  cat >"$CACHE/tls/edge.next" <<SECRET
{"resources": [{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": "edge",
  "tls_certificate": {"certificate_chain": {"filename": "/tls/cert/${TLS_CERT##*/}"}, "private_key": {"filename": "/tls/key/${TLS_KEY##*/}"}}}]}
SECRET
  chmod 0755 "$CACHE/tls"
  chmod 0644 "$CACHE/tls/edge.next"
  mv "$CACHE/tls/edge.next" "$CACHE/tls/edge.json"
}

# tls_file NAME: the absolute path that this setting names, links left as they are.
tls_file() {
  local path
  path=$(optional "$1")
  [[ -n $path ]] || fail "TLS needs MUSTER_TLS_CERT and MUSTER_TLS_KEY, and $1 is not set"
  path=$(realpath --no-symlinks --canonicalize-missing "$path")
  [[ ! $path =~ [\"\\:] ]] || fail "$1 names $path: a path without quotes, backslashes and colons, please"
  echo "$path"
}

# tls_mismatch: how what runs differs from what is asked for; empty when it does not, or nothing runs.
tls_mismatch() {
  local front
  front=$(containers "" front)
  [[ -n $front ]] || return 0
  if [[ -n $(docker port "$front" 8443/tcp 2>/dev/null) ]]; then
    tls_is_wanted || echo "a fleet with TLS runs: give MUSTER_TLS_CERT and MUSTER_TLS_KEY as when it was started; to turn it off, make down, then make up"
  else
    ! tls_is_wanted || echo "a fleet without TLS runs: to turn it on, make down, then make up"
  fi
}

# Before anything starts: an Envoy without a certificate refuses every handshake, and hardly says why.
tls_check() {
  local mismatch
  mismatch=$(tls_mismatch)
  [[ -z $mismatch ]] || fail "$mismatch"
  tls_is_wanted || return 0
  [[ $(setting MUSTER_TLS_PORT) != "$(setting MUSTER_PORT)" ]] || fail "MUSTER_TLS_PORT and MUSTER_PORT must differ"
  tls_check_file MUSTER_TLS_CERT "$TLS_CERT" "sudo chmod a+r '$TLS_CERT'"
  tls_check_file MUSTER_TLS_KEY "$TLS_KEY" "sudo chgrp $ENVOY_UID '$TLS_KEY' && sudo chmod u=rw,g=r,o= '$TLS_KEY'"
  tls_belong_together
}

# tls_check_file NAME PATH FIX: Envoy can read it, and would see another file under this name.
tls_check_file() {
  local directory=${2%/*} real
  [[ -e $2 ]] || fail "$1 names $2, and there is no such file, or not for you"
  [[ -f $2 ]] || fail "$1 names $2, which is no file"
  real=$(realpath "$2")
  # Only its directory is in Envoy's container, so that a renewed file is seen there.
  [[ $real == "$(realpath "$directory")"/* ]] ||
    fail "$1 names $2, a link to $real, which Envoy cannot follow out of the directory. Copy it at each renewal: sudo install -D -m 0640 -g $ENVOY_UID '$real' '/etc/muster-tls/${2##*/}.next' && sudo mv '/etc/muster-tls/${2##*/}.next' '/etc/muster-tls/${2##*/}'; and set $1=/etc/muster-tls/${2##*/}"
  tls_may "$directory" 1 || fail "Envoy (uid $ENVOY_UID) may not enter $directory: sudo chmod a+x '$directory'"
  tls_may "$real" 4 || fail "Envoy (uid $ENVOY_UID) may not read $2: $3"
}

# tls_may PATH BIT: whether mode and owner let Envoy read (4) or enter (1).
tls_may() {
  local mode user group digit
  read -r mode user group < <(stat --dereference --format '%a %u %g' "$1")
  mode=$(printf '%03d' "$mode")
  if ((user == ENVOY_UID)); then
    digit=${mode: -3:1}
  elif ((group == ENVOY_UID)); then
    digit=${mode: -2:1}
  else
    digit=${mode: -1}
  fi
  ((digit & $2))
}

# As far as this machine and this user can tell.
tls_belong_together() {
  local certificate key
  command -v openssl >/dev/null && [[ -r $TLS_CERT ]] || return 0
  certificate=$(openssl x509 -in "$TLS_CERT" -noout -pubkey 2>/dev/null) || fail "MUSTER_TLS_CERT: $TLS_CERT is no certificate in PEM"
  openssl x509 -in "$TLS_CERT" -noout -checkend 0 >/dev/null || warn "the certificate $TLS_CERT has ended"
  [[ -r $TLS_KEY ]] || return 0
  key=$(openssl pkey -in "$TLS_KEY" -pubout -passin pass: 2>/dev/null) ||
    fail "MUSTER_TLS_KEY: $TLS_KEY is no key in PEM, or has a passphrase: openssl pkey -in '$TLS_KEY' -out KEY takes it off"
  [[ $certificate == "$key" ]] || fail "the key $TLS_KEY does not belong to the certificate $TLS_CERT"
}
