# shellcheck shell=bash
# Sourced by run.sh: a container engine of the test's own, which may be stopped and killed. The machine's own never is.

ENGINE=$ME-engine

# A restart of the engine and its crash, under a running fleet: the edge answers again without a hand on it, because the unit
# that `make install-unit` writes is run by systemd with each start of the engine. There is no systemd in a container, so the
# line that it would run is taken out of that unit and run.
bare_engine() {
  local line way seconds_away
  engine_image
  use_engine_images
  engine_up
  in_engine "cd '$CLONE' && MUSTER_PORT=8080 scripts/fleet.sh up" || fail "the fleet on an engine of its own: $(tail -n 20 "$WORK/log")"
  in_engine "cd '$CLONE' && UNIT_DIRECTORY=/run/units scripts/unit.sh install" || fail "the unit: $(tail -n 5 "$WORK/log")"
  line=$(docker exec "$ENGINE" sed -n 's/^ExecStart=//p' /run/units/muster.service)
  [[ -n $line ]] || fail "the unit starts nothing"
  for way in TERM KILL; do
    engine_ends "$way"
    engine_starts
    say "   by itself: $(docker exec "$ENGINE" docker ps -q --filter name=envoy | wc -l) of 2 Envoys run"
    seconds_away=$(seconds)
    in_engine "cd / && $line" || fail "after $way of the engine: $(tail -n 20 "$WORK/log")"
    in_engine "wget -q -O - http://127.0.0.1:8080/ips.txt" || fail "after $way of the engine the edge does not answer"
    [[ $(wc -l <"$WORK/log") == 3 ]] || fail "after $way of the engine this is listed: $(tr '\n' ' ' <"$WORK/log")"
    say "   engine ended by $way and started: the edge answers $(since "$seconds_away") after its start"
  done
  engine_gone
}

# The programs of this machine's engine with their libraries, on a base that has a shell.
engine_image() {
  local program path tree=$WORK/engine library
  mkdir -p "$tree"/usr/{bin,sbin,lib,lib64}
  for program in bin sbin lib lib64; do ln -s "usr/$program" "$tree/$program"; done
  for program in dockerd containerd containerd-shim-runc-v2 runc docker-proxy docker-init ip iptables; do
    path=$(type -P "$program") || fail "an engine of the test's own needs $program of this machine"
    cp -L "$path" "$tree/usr/sbin/$program"
  done
  cp -L "$(type -P xtables-nft-multi || type -P iptables)" "$tree/usr/sbin/xtables-nft-multi"
  for program in iptables ip6tables iptables-save ip6tables-save iptables-restore ip6tables-restore; do ln -sf xtables-nft-multi "$tree/usr/sbin/$program"; done
  cp "$(static_client)" "$tree/usr/bin/docker"
  for library in $(ldd "$tree"/usr/sbin/* "$(plugins)"/docker-* 2>/dev/null | grep -o '/[^ :]*' | grep '\.so' | grep -v "^$WORK" | sort -u); do
    install -D -m 0755 "$library" "$tree/usr/${library#/usr}"
  done
  cp -r --parents /usr/lib/*/xtables "$tree/" 2>/dev/null || true
  images/parts.sh busybox >/dev/null 2>&1
  cp "$CACHE/parts/bin/busybox" "$tree/usr/bin/"
  for program in $("$tree/usr/bin/busybox" --list); do [[ -e $tree/usr/bin/$program || -e $tree/usr/sbin/$program ]] || ln -s busybox "$tree/usr/bin/$program"; done
  cat >"$tree/usr/sbin/engine" <<'PROGRAM'
#!/bin/sh
# Runs the engine whenever it is asked to, and stays when the engine ends.
mount -t tmpfs tmpfs /run
mkdir -p /etc /tmp /var
ln -sfn /run /var/run
echo 1 >/proc/sys/net/ipv4/ip_forward
# Apart from the engine, as a distribution has it: it outlives the engine's crash, and so do the containers.
containerd >/var/lib/docker/containerd.log 2>&1 &
while :; do
  if [ -e /run/wanted ] && ! [ -e /run/engine.pid ]; then
    rm -f /run/docker.pid
    dockerd --containerd /run/containerd/containerd.sock --storage-driver overlay2 >>/var/lib/docker/engine.log 2>&1 &
    echo $! >/run/engine.pid
    wait $!
    rm -f /run/engine.pid /run/wanted
  fi
  sleep 0.1
done
PROGRAM
  chmod +x "$tree/usr/sbin/engine"
  mkdir -p "$tree/etc/ssl/certs" "$tree/proc" "$tree/sys" "$tree/dev" "$tree/run" "$tree/tmp" "$tree/root"
  tar -C "$tree" -c . | docker import - "$ENGINE:image" >/dev/null
  rm -rf "$tree"
}

engine_up() {
  docker volume create "$ENGINE" >/dev/null
  docker run --detach --init --name "$ENGINE" --hostname engine --cap-add ALL --cap-drop SYS_RESOURCE \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined \
    --device-cgroup-rule 'a *:* rwm' --volume "$ENGINE:/var/lib/docker" --volume /sys/fs/cgroup:/sys/fs/cgroup:rw \
    --volume "$CLONE:$CLONE" --volume "$(plugins):/usr/lib/docker/cli-plugins:ro" --env HOME=/tmp \
    "$ENGINE:image" /usr/sbin/engine >/dev/null
  engine_starts
  docker save muster/node:local muster/envoy:local muster/etcd:local muster/front:local | docker exec -i "$ENGINE" docker load >/dev/null
}

use_engine_images() {
  build_images >"$WORK/log" 2>&1 || fail "the images: $(tail -n 5 "$WORK/log")"
}

engine_starts() {
  docker exec "$ENGINE" touch /run/wanted
  wait_for 60 docker exec "$ENGINE" docker version >/dev/null 2>&1 ||
    fail "the engine of the test's own does not start: $(docker exec "$ENGINE" tail -n 5 /var/lib/docker/engine.log)"
}

# engine_ends SIGNAL
engine_ends() {
  docker exec "$ENGINE" sh -c "kill -$1 \$(cat /run/engine.pid)"
  wait_for 60 docker exec "$ENGINE" sh -c '! [ -e /run/engine.pid ]' || fail "the engine of the test's own does not end"
}

in_engine() { bounded 300 docker exec "$ENGINE" sh -c "$1" >"$WORK/log" 2>&1; }

engine_gone() {
  docker rm -f "$ENGINE" >/dev/null 2>&1 || true
  docker volume rm "$ENGINE" >/dev/null 2>&1 || true
  docker image rm "$ENGINE:image" >/dev/null 2>&1 || true
}
