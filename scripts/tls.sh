# shellcheck shell=sh
# Sourced beside lib.sh and kernel.sh: which files Compose is given, and TLS for the public. MUSTER_TLS_CERT and MUSTER_TLS_KEY turn it on;
# Envoy is given their directories.

# Which user Envoy is.
ENVOY_UID=65532

tls_is_wanted() { [ -n "$(optional MUSTER_TLS_CERT)$(optional MUSTER_TLS_KEY)" ]; }

# compose_files: makes `docker compose` of this script take compose.tls.yaml where TLS is wanted, and compose.old-kernel.yaml
# where the front that runs has been started without the switch.
compose_files() {
  if tls_is_wanted; then
    add_compose_file compose.tls.yaml
    tls_settings
  fi
  site_options
  kernel_settings
}

# A directory of one's own carries a label that SELinux lets no container read.
site_options() {
  case $(optional MUSTER_SITE_DIR) in
    /* | ./* | ../*)
      case $(docker info --format '{{.SecurityOptions}}' 2>/dev/null) in
        *selinux*) export MUSTER_SITE_OPTIONS=ro,z ;;
      esac
      ;;
  esac
}

# add_compose_file FILE
add_compose_file() {
  files=${COMPOSE_FILE:-$(optional COMPOSE_FILE)}
  if [ -z "$files" ]; then
    # Named files replace those that Compose finds by itself.
    files=compose.yaml
    [ ! -e compose.override.yaml ] || files=$files:compose.override.yaml
  fi
  case :$files: in *":$1:"*) ;; *) files=$files:$1 ;; esac
  export COMPOSE_FILE="$files"
}

# Tells Compose and Envoy where the files are.
tls_settings() {
  TLS_CERT=$(tls_file MUSTER_TLS_CERT)
  TLS_KEY=$(tls_file MUSTER_TLS_KEY)
  export MUSTER_TLS_CERT_DIR="${TLS_CERT%/*}" MUSTER_TLS_KEY_DIR="${TLS_KEY%/*}"
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
  path=$(optional "$1")
  [ -n "$path" ] || fail "TLS needs MUSTER_TLS_CERT and MUSTER_TLS_KEY, and $1 is not set"
  case $path in /*) ;; *) path=$ROOT/${path#./} ;; esac
  case $path in *\"* | *\\* | *:*) fail "$1 names $path: expected a path without quotes, backslashes and colons" ;; esac
  printf '%s\n' "$path"
}

# tls_mismatch: how what runs differs from what is asked for; empty when it does not, or nothing runs.
tls_mismatch() {
  front=$(containers "" front)
  [ -n "$front" ] || return 0
  if [ -n "$(docker port "$front" 8443/tcp 2>/dev/null)" ]; then
    tls_is_wanted || echo "a fleet with TLS runs: give MUSTER_TLS_CERT and MUSTER_TLS_KEY as when it was started; to turn it off, make down, then make up"
  else
    ! tls_is_wanted || echo "a fleet without TLS runs: to turn it on, make down, then make up"
  fi
}

# Before anything starts: an Envoy without a certificate refuses every handshake, and hardly says why.
tls_check() {
  mismatch=$(tls_mismatch)
  [ -z "$mismatch" ] || fail "$mismatch"
  tls_is_wanted || return 0
  [ "$(setting MUSTER_TLS_PORT)" != "$(setting MUSTER_PORT)" ] || fail "MUSTER_TLS_PORT and MUSTER_PORT must differ"
  tls_check_file MUSTER_TLS_CERT "$TLS_CERT" "sudo chmod a+r '$TLS_CERT'"
  tls_check_file MUSTER_TLS_KEY "$TLS_KEY" "$(tls_key_fix)"
  tls_belong_together
}

# tls_check_file NAME PATH FIX: there is a file, and would be one where Envoy is.
tls_check_file() {
  [ -e "$2" ] || fail "$1 names $2, and there is no such file, or not for you"
  [ -f "$2" ] || fail "$1 names $2, which is no file"
  # Asked in a container once there is an image: user namespaces and SELinux decide too, and they cannot be read off the modes.
  docker image inspect "$(setting MUSTER_FRONT_TAG)" >/dev/null 2>&1 || return 0
  tls_seen_by_envoy "$2" && return
  if [ -L "$2" ]; then
    fail "$1 names $2, a link that Envoy cannot follow out of the directory, or to a file that it may not read. Copy it at each renewal: sudo install -D -m 0640 -g $ENVOY_UID '$2' '/etc/muster-tls/${2##*/}.next' && sudo mv '/etc/muster-tls/${2##*/}.next' '/etc/muster-tls/${2##*/}'; and set $1=/etc/muster-tls/${2##*/}"
  fi
  fail "Envoy (uid $ENVOY_UID) may not read $2: $3; and each directory above it wants: sudo chmod a+x '${2%/*}'. With SELinux also: sudo chcon -t container_file_t '$2'"
}

# A rootless engine's groups have other numbers on the host, which a container knows.
tls_key_fix() {
  case $(docker info --format '{{.SecurityOptions}}' 2>/dev/null) in
    *rootless* | *userns*)
      fixed=/tls/${TLS_KEY##*/}
      printf '%s\n' "docker run --rm --user 0 --volume '${TLS_KEY%/*}:/tls' $(setting MUSTER_FRONT_TAG) sh -c \"chgrp $ENVOY_UID '$fixed' && chmod u=rw,g=r,o= '$fixed'\""
      ;;
    *) printf '%s\n' "sudo chgrp $ENVOY_UID '$TLS_KEY' && sudo chmod u=rw,g=r,o= '$TLS_KEY'" ;;
  esac
}

# Only its directory is in Envoy's container, so that a renewed file is seen there.
tls_seen_by_envoy() {
  docker run --rm --network none --user "$ENVOY_UID:$ENVOY_UID" --cap-drop ALL --volume "${1%/*}:/tls:ro" \
    "$(setting MUSTER_FRONT_TAG)" cat "/tls/${1##*/}" >/dev/null 2>&1
}

# As far as this machine and this user can tell.
tls_belong_together() {
  command -v openssl >/dev/null 2>&1 && [ -r "$TLS_CERT" ] || return 0
  certificate=$(openssl x509 -in "$TLS_CERT" -noout -pubkey 2>/dev/null) || fail "MUSTER_TLS_CERT: $TLS_CERT is no certificate in PEM"
  openssl x509 -in "$TLS_CERT" -noout -checkend 0 >/dev/null || warn "the certificate $TLS_CERT has ended"
  [ -r "$TLS_KEY" ] || return 0
  key=$(openssl pkey -in "$TLS_KEY" -pubout -passin pass: 2>/dev/null) ||
    fail "MUSTER_TLS_KEY: $TLS_KEY is no key in PEM, or has a passphrase: openssl pkey -in '$TLS_KEY' -out KEY takes it off"
  [ "$certificate" = "$key" ] || fail "the key $TLS_KEY does not belong to the certificate $TLS_CERT"
}
