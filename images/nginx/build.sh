#!/usr/bin/env bash
# Builds nginx as one static file of less than 1 MB: images/nginx/build.sh OUTPUT
# Needs cargo, musl-gcc, make and binutils; run by images/parts.sh and by the compiling stage of images/Dockerfile.
#
# For another architecture, from outside: ARCH (x86_64 or aarch64), CC (one program in PATH that compiles for it and links
# static PIEs against musl), STRIP, CONFIGURE (more arguments for configure). What configure compiles has to run here.
set -euo pipefail
ARCH=${ARCH:-$(uname -m)}

here=$(cd "$(dirname "$0")" && pwd)
output=$(realpath -m "$1")

case $ARCH in
x86_64) branches=-fcf-protection ;;
aarch64) branches=-mbranch-protection=standard ;;
*) echo "error: nginx is built for x86_64 and aarch64, this is $ARCH" >&2; exit 1 ;;
esac

cargo fetch --quiet --locked --manifest-path "$here/Cargo.toml" --target x86_64-unknown-linux-gnu
metadata=$(cargo metadata --quiet --locked --format-version 1 --manifest-path "$here/Cargo.toml" --filter-platform x86_64-unknown-linux-gnu)
# The directory into which cargo has put a crate.
source_of() {
  local manifest
  manifest=$(grep -o '"manifest_path":"[^"]*/'"$1"'-[0-9][^"/]*/Cargo.toml"' <<<"$metadata" | cut -d'"' -f4)
  [[ -n $manifest ]] || { echo "error: cargo did not say where it put $1" >&2; exit 1; }
  dirname "$manifest"
}
nginx=$(source_of nginx-src)
zlib=$(source_of libz-sys)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The build writes into its source, and cargo's copy is shared by every project of this user.
cp -r "$nginx/nginx/." "$work"
cd "$work"

# nginx's own validators are a file's time, as somebody may set it, and its size: a build that gives each file the same time
# then has one ETag for two contents. The kernel's time of the last change, in nanoseconds, nobody can set.
# docs/decisions/validators.md
changed='(uint64_t) fi.st_ctim.tv_sec * 1000000000 + (uint64_t) fi.st_ctim.tv_nsec'
later='ngx_max(of.mtime, (time_t) (of.changed / 1000000000))'
sed -i 's/^    time_t  *last_modified_time;/&\n    uint64_t changed;/' src/http/ngx_http_request.h
sed -i 's/^    time_t  *mtime;/&\n    uint64_t changed;/' src/core/ngx_open_file_cache.h
sed -i "s/^\( *\)of->mtime = ngx_file_mtime(&fi);/&\n\1of->changed = $changed;/" src/core/ngx_open_file_cache.c
sed -i "s|r->headers_out.last_modified_time = of.mtime;|r->headers_out.changed = of.changed;\n    r->headers_out.last_modified_time = $later;|" \
  src/http/modules/ngx_http_static_module.c src/http/modules/ngx_http_gzip_static_module.c
sed -i -e 's/"\\"%xT-%xO\\""/"\\"%xT-%xO-%xL\\""/' -e 's/NGX_OFF_T_LEN + NGX_TIME_T_LEN + 3/NGX_OFF_T_LEN + NGX_TIME_T_LEN + NGX_INT64_LEN + 4/' \
  -e '/last_modified_time,$/{n;s/r->headers_out.content_length_n)/r->headers_out.content_length_n,\n        (int64_t) r->headers_out.changed)/}' src/http/ngx_http_core_module.c
for mended in http/ngx_http_request.h=1 core/ngx_open_file_cache.h=2 core/ngx_open_file_cache.c=2 http/ngx_http_core_module.c=1 \
  http/modules/ngx_http_static_module.c=2 http/modules/ngx_http_gzip_static_module.c=2; do
  (($(grep -cE "(of\.|of->|headers_out\.|uint64_t )changed\b" "src/${mended%=*}") == ${mended#*=})) ||
    { echo "error: nginx's ${mended%=*} is not as images/nginx/build.sh expects it" >&2; exit 1; }
done

# nginx has a module that sends FILE.gz in place of FILE, and none for FILE.br: the same code with the other ending, and with a
# test of its own for who takes it. Brotli itself is not compiled in: what is sent has been compressed by whoever made the site.
cp -r "$here/brotli" .
sed -e 's/gzip_static/brotli_static/g; s/GZIP_STATIC/BROTLI_STATIC/g; s/"gzip"/"br"/; s/"\.gz"/".br"/' \
  -e "s/\\*p++ = 'g';/*p++ = 'b';/; s/\\*p++ = 'z';/*p++ = 'r';/" -e 's/ngx_http_gzip_ok(r)/ngx_http_brotli_ok(r)/' \
  -e 's/^#include <ngx_http.h>/&\n#include "accepts.h"/' \
  src/http/modules/ngx_http_gzip_static_module.c >brotli/ngx_http_brotli_static_module.c
(($(grep -cE "\"\.br\"|\"br\"|= '[br]';|brotli_ok|accepts.h|\"brotli_static\"" brotli/ngx_http_brotli_static_module.c) == 7)) ||
  { echo "error: nginx's gzip_static is not as images/nginx/build.sh expects it" >&2; exit 1; }

mkdir bin
if [[ -z ${CC:-} ]]; then
  # musl-gcc -static-pie links dynamically without a word, so its specs are changed to link a static PIE and nothing else.
  CC=static-pie-gcc
  specs=$(grep -o '/[^" ]*musl-gcc\.specs' "$(command -v musl-gcc)")
  sed -e 's|/Scrt1\.o|/rcrt1.o|' -e 's|^-dynamic-linker [^ ]*|-static -pie --no-dynamic-linker -z text|' "$specs" >bin/static-pie.specs
  cat >bin/static-pie-gcc <<WRAPPER
#!/bin/sh
exec "\${REALGCC:-gcc}" "\$@" -specs $work/bin/static-pie.specs
WRAPPER
  chmod +x bin/static-pie-gcc
fi
# By its name only: what configure is told stays in the program, which should be the same wherever it is built.
PATH=$work/bin:$PATH

# No -D_FORTIFY_SOURCE: musl has no checking variants of its functions, so it would change nothing.
harden='-O2 -fPIE -fstack-protector-strong -fstack-clash-protection '"$branches -Wformat -Werror=format-security"

# What nginx compresses with. As a linker script, because an archive of another architecture needs that one's tools.
mkdir zlib
for unit in adler32 crc32 deflate trees zutil; do
  # shellcheck disable=SC2086 # several flags
  "$CC" $harden -c "$zlib/src/zlib/$unit.c" -o "zlib/$unit.o"
done
cp "$zlib"/src/zlib/{zlib,zconf}.h zlib
printf 'INPUT(%s)\n' "$work"/zlib/*.o >zlib/libz.a

# Left in: threads for reads, static, index, try_files, headers, log, map, gzip, gzip_static and brotli_static, limit_conn, limit_req, stub_status, access (stub_status answers to
# the node only), range and not_modified. Everything else is code that an attacker could reach and nobody here uses.
without=(
  http_auth_basic_module http_autoindex_module http_browser_module http_charset_module http_empty_gif_module
  http_fastcgi_module http_geo_module http_grpc_module http_memcached_module http_mirror_module
  http_proxy_module http_referer_module http_rewrite_module http_scgi_module http_split_clients_module http_ssi_module
  http_upstream_hash_module http_upstream_ip_hash_module http_upstream_keepalive_module http_upstream_least_conn_module
  http_upstream_random_module http_upstream_zone_module http_userid_module http_uwsgi_module
  http-cache pcre pcre2 select_module poll_module quic_bpf_module
)
read -ra configure <<<"${CONFIGURE:-}"
auto/configure \
  --prefix=/run/muster --sbin-path=/usr/local/bin/nginx --conf-path=/run/muster/nginx.conf \
  --pid-path=/run/muster/nginx.pid --lock-path=/run/muster/nginx.lock \
  --error-log-path=stderr --http-log-path=/dev/stdout --http-client-body-temp-path=/run/muster/body \
  --with-cc="$CC" --with-cc-opt="$harden -Izlib" --with-ld-opt='-Wl,-z,relro,-z,now,-z,noexecstack -Lzlib' \
  --with-threads --with-http_gzip_static_module --with-http_stub_status_module "${without[@]/#/--without-}" \
  --add-module=brotli "${configure[@]}" >configure.log 2>&1 ||
  { tail -n 20 configure.log >&2; exit 1; }
env -u MAKEFLAGS make -j"$(nproc)" >make.log 2>&1 || { tail -n 20 make.log >&2; exit 1; }

# Read off the objects: the program is stripped, and musl brings the function called here whether or not it is called.
guarded=$(find objs -name '*.o' -exec readelf -sW {} + | grep -c 'UND __stack_chk_fail$' || true)
((guarded > 30)) || { echo "error: nginx has stack canaries in $guarded files only" >&2; exit 1; }
"${STRIP:-strip}" objs/nginx
"$here/hardened.sh" objs/nginx
install -D -m 0755 objs/nginx "$output"
