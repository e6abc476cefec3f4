# shellcheck shell=bash
# Sourced by run.sh: set-ups that people have reported, each on the machine without bash, with what has to be said or done.

bare_cases() {
  fleet_is cases
  use_images
  machine alpine:3.10 --glibc --plugins
  refuses_wrong_settings
  refuses_who_may_not_ask
  a_switch_the_kernel_lacks
  a_dotenv_as_compose_reads_it
  a_proxy_in_the_environment
  certificates_that_ended
  a_node_on_a_second_network
  a_member_without_its_volume
  inside "make clean" || fail "make clean: $(tail -n 5 "$WORK/log")"
}

# case_passed WHAT
case_passed() { say "   $1"; }

refuses_wrong_settings() {
  ! inside "MUSTER_TTL=abc MUSTER_NODES=0 ENVOY_MEMORY=lots make up" || fail "wrong settings are accepted"
  local wanted
  for wanted in "MUSTER_TTL is 'abc'" "MUSTER_NODES is '0'" "ENVOY_MEMORY is 'lots'" "nothing was started"; do
    grep -q "$wanted" "$WORK/log" || fail "a wrong setting is not named ($wanted): $(cat "$WORK/log")"
  done
  sed -i.kept 's/^MUSTER_ACCESS_LOG=.*/MUSTER_ACCESS_LOG=some/' "$CLONE/.env"
  ! inside "make up" || fail "a wrong line of .env is accepted"
  grep -q "^.env, line $(grep -n '^MUSTER_ACCESS_LOG' "$CLONE/.env" | cut -d: -f1): MUSTER_ACCESS_LOG is 'some', allowed is" "$WORK/log" ||
    fail "the line of a wrong setting is not named: $(cat "$WORK/log")"
  mv "$CLONE/.env.kept" "$CLONE/.env"
  [[ -z $(docker ps -aq --filter "label=com.docker.compose.project=$PROJECT") ]] || fail "wrong settings started something"
  case_passed "wrong settings: each named, with its line, and nothing started"
}

refuses_who_may_not_ask() {
  inside "cp -r . /tmp/other && chown -R 1234:1234 /tmp/other" || fail "a copy for another user: $(tail -n 3 "$WORK/log")"
  ! bounded 60 docker exec --user 1234:1234 --workdir /tmp/other "$ME" scripts/fleet.sh up >"$WORK/log" 2>&1 ||
    fail "who may not ask the engine can start a fleet"
  grep -q "usermod -aG docker" "$WORK/log" || fail "who may not ask the engine is not told the cure: $(cat "$WORK/log")"
  ! grep -q "plain processes" "$WORK/log" || fail "an engine that may not be asked leads to plain processes"
  case_passed "an engine that may not be asked: the cure is named"
}

a_switch_the_kernel_lacks() {
  printf 'services:\n  front:\n    sysctls: {net.ipv4.tcp_not_there: "1"}\n' >"$CLONE/compose.override.yaml"
  inside "make up" || fail "a switch that the kernel lacks: $(tail -n 10 "$WORK/log")"
  grep -q "does not have net.ipv4.tcp_not_there" "$WORK/log" || fail "the switch that the kernel lacks is not named: $(cat "$WORK/log")"
  listed 3
  inside "make scale N=4" || fail "scale without the switch: $(tail -n 10 "$WORK/log")"
  inside "make down" || fail "make down: $(tail -n 5 "$WORK/log")"
  rm "$CLONE/compose.override.yaml"
  case_passed "a switch that the kernel lacks: started without, and said"
}

a_dotenv_as_compose_reads_it() {
  sed -i.kept -e 's/^MUSTER_TTL=5/MUSTER_TTL=5 # seconds/' -e 's/^MUSTER_NODES=3/MUSTER_NODES="2"/' "$CLONE/.env"
  inside "make up" || fail "a comment and quotes in .env: $(tail -n 10 "$WORK/log")"
  listed 2
  mv "$CLONE/.env.kept" "$CLONE/.env"
  case_passed "a comment and quotes in .env: as Compose reads them"
}

a_proxy_in_the_environment() {
  inside "http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 HTTP_PROXY=http://127.0.0.1:9 make scale N=3" ||
    fail "scale with a proxy in the environment: $(tail -n 10 "$WORK/log")"
  mkdir -p "$WORK/docker"
  echo '{"proxies": {"default": {"httpProxy": "http://127.0.0.1:9", "httpsProxy": "http://127.0.0.1:9"}}}' >"$WORK/docker/config.json"
  inside "make down && DOCKER_CONFIG=$WORK/docker make up" || fail "proxies of the client's config.json: $(tail -n 10 "$WORK/log")"
  listed 3
  case_passed "a proxy in the environment and in the client's configuration: no difference"
}

# The same certificate, signed anew by the fleet's own authority with an end that has passed.
certificates_that_ended() {
  local pki=$WORK/pki
  need openssl=openssl
  inside "make down" || fail "make down: $(tail -n 5 "$WORK/log")"
  mkdir -p "$pki"
  docker run --rm --volume "${PROJECT}_pki-authority:/authority:ro" --volume "${PROJECT}_pki-prometheus:/prometheus:ro" alpine:3.10 \
    tar -c /authority /prometheus 2>/dev/null | tar -x -C "$pki"
  (
    cd "$pki"
    openssl x509 -x509toreq -in prometheus/generation-1/etcd.crt -signkey prometheus/generation-1/etcd.key -copy_extensions copy -out request
    openssl x509 -req -in request -CA authority/generation-1/etcd-ca.crt -CAkey authority/generation-1/etcd-ca.key -days 0 \
      -copy_extensions copy -out ended
  ) >"$WORK/log" 2>&1 || fail "an ended certificate could not be made: $(tail -n 3 "$WORK/log")"
  docker run --rm --interactive --volume "${PROJECT}_pki-prometheus:/prometheus" alpine:3.10 sh -c 'cat >/prometheus/generation-1/etcd.crt' <"$pki/ended"
  # Its end is the second of its signature.
  wait_for 10 not_current "$pki/ended"
  inside "make up" || fail "certificates that ended: $(tail -n 10 "$WORK/log")"
  grep -q "certificates have ended while the fleet was off: they are renewed" "$WORK/log" || fail "ended certificates are not named: $(cat "$WORK/log")"
  inside "docker compose run --rm --no-deps -T pki pki show" || fail "after the renewal pki show says: $(tail -n 3 "$WORK/log")"
  case_passed "certificates that ended while the fleet was off: named and renewed"
}

not_current() { ! openssl x509 -in "$1" -noout -checkend 0 >/dev/null; }

a_node_on_a_second_network() {
  docker network create --label "com.docker.compose.project=$PROJECT" "$PROJECT-second" >/dev/null
  docker network connect "$PROJECT-second" "$(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter label=com.docker.compose.service=nginx | head -n 1)"
  inside "make up" || fail "a node on a second network: $(tail -n 10 "$WORK/log")"
  case_passed "a node on a second network: the fleet's address counts"
}

a_member_without_its_volume() {
  local code=0
  docker rm -f "$PROJECT-etcd2-1" >/dev/null
  docker volume rm "${PROJECT}_etcd2-tls" >/dev/null
  inside "make up" || code=$?
  ((code != 0)) || fail "make up says nothing of a member that lost its volume"
  if ! grep -q "etcd2 does not answer" "$WORK/log" || ! grep -q "make restore" "$WORK/log"; then
    fail "the member without its volume is not named with its cure: $(tail -n 5 "$WORK/log")"
  fi
  inside "make backup FILE=$WORK/healed.db && make restore FILE=$WORK/healed.db" || fail "the cure that is named: $(tail -n 10 "$WORK/log")"
  inside "make up" || fail "after the cure: $(tail -n 10 "$WORK/log")"
  case_passed "a member of etcd without its volume: named, and back by the cure that is named"
}
