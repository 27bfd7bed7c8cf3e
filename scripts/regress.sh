#!/usr/bin/env bash
# PostgreSQL's own regression suite on plain Postgres and through Ripen, each on a fresh cluster; every difference in what psql saw is printed.
# The suite is that of Debian's source package of the installed server; fetched once, with an apt configuration of its own. Installs nothing.
# Usage: scripts/regress.sh [off|read-through|exclusive|write-behind …]   how Ripen treats all tables, one run each; without arguments the first three.
#   off           everything passes through
#   read-through  cached, followed by the hot cache; tables in the publication are seen late and often only after a test has dropped them
#   exclusive     cached without hot cache, from the moment they are made: much more is answered from memory
#   write-behind  as exclusive, and writes are queued
# RIPEN=target/debug/ripen  REGRESS_DIR=/var/tmp/ripen-regress  REGRESS_TESTS="test_setup int4": only these  CONNECTIONS=1: at once  LIMIT=3600: seconds per run
set -euo pipefail
. "$(dirname "$0")/lib.sh"
modes=("$@")
[ "${#modes[@]}" -gt 0 ] || modes=(off read-through exclusive)
ripen=$(realpath "${RIPEN:-$root_dir/target/debug/ripen}")
bin=$(postgres_bin) || die "regress: no PostgreSQL programs; apt-get install postgresql"
lib=$("$bin/pg_config" --pkglibdir 2>/dev/null || echo "$(dirname "$bin")/lib")
pg_regress=$lib/pgxs/src/test/regress/pg_regress
[ -x "$pg_regress" ] || die "regress: no $pg_regress; it is in the package of the server"
. "$root_dir/scripts/source.sh"
dir=${REGRESS_DIR:-/var/tmp/ripen-regress}
source=$dir/source-$version
PATH=$bin:$PATH
postgres_pid= ripen_pid= suite_pid= claim_pid=

finish() {
    [ -z "$suite_pid" ] || { kill -TERM "$suite_pid" 2>/dev/null && wait "$suite_pid" || true; }
    [ -z "$claim_pid" ] || { kill -TERM "$claim_pid" 2>/dev/null && wait "$claim_pid" || true; }
    [ -z "$ripen_pid" ] || { kill -TERM "$ripen_pid" 2>/dev/null && wait "$ripen_pid" || true; }
    [ -z "$postgres_pid" ] || { kill -INT "$postgres_pid" 2>/dev/null && wait "$postgres_pid" || true; }
    ripen_pid= postgres_pid= suite_pid= claim_pid=
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- the suite

# The C functions that the suite calls; the server's headers come from a package that is unpacked, not installed.
compile() {
    dpkg-deb -x "$1"/postgresql-server-dev-*.deb "$1/dev"
    mkdir "$1/lib"
    cc -shared -fPIC -O1 -w -I"$1/dev/$("$bin/pg_config" --includedir-server 2>/dev/null || echo "usr/include/postgresql/${package#postgresql-}/server")" -o "$1/lib/regress.so" "$1/suite/regress.c"
    ln -s "$lib/refint.so" "$lib/autoinc.so" "$1/lib/"
}

get_suite() {
    local new=$dir/new
    say "regress: fetching the source of $package $version"
    rm -rf "$new"
    mkdir -p "$new/suite"
    own_apt "$new"
    fetch "$new" source "postgresql-server-dev-${package#postgresql-}"
    tar -xf "$new"/*.orig.tar.* -C "$new/suite" --strip-components=4 --wildcards '*/src/test/regress/*'
    compile "$new"
    rm -rf "$new"/*.deb "$new"/*.tar.* "$new"/state "$new"/cache "$new"/dev
    mv "$new" "$source"
}

# ---- a run

wait_for() {
    for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    tail -n 20 "$work"/*.log >&2 || true
    die "regress: no answer to: $*"
}

start_postgres() {
    "${as_postgres[@]}" initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --no-locale -D "$work/pg/data" >/dev/null
    # Two prepared transactions as pg_regress sets them; the rest is what Ripen needs, and haste.
    "${as_postgres[@]}" postgres -D "$work/pg/data" -c port="$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c wal_level=logical -c max_prepared_transactions=2 -c max_connections=200 -c fsync=off -c max_wal_size=4GB 2>"$work/postgres.log" &
    postgres_pid=$!
    wait_for psql -XAtqc "SELECT 1" "postgres://postgres@127.0.0.1:$port/postgres"
    # As pg_regress makes it when it makes one.
    psql -Xq -v ON_ERROR_STOP=1 "postgres://postgres@127.0.0.1:$port/postgres" <<'SQL'
CREATE DATABASE regression TEMPLATE template0;
ALTER DATABASE regression SET lc_messages TO 'C';
ALTER DATABASE regression SET lc_monetary TO 'C';
ALTER DATABASE regression SET lc_numeric TO 'C';
ALTER DATABASE regression SET lc_time TO 'C';
ALTER DATABASE regression SET bytea_output TO 'hex';
ALTER DATABASE regression SET timezone_abbreviations TO 'Default';
SQL
    # Plain Postgres has Ripen's schema and publication, too: some tests list all that there are.
    "$ripen" migrate --upstream "postgres://postgres@127.0.0.1:$port/regression" >>"$work/ripen.log" 2>&1
    psql -Xq -v ON_ERROR_STOP=1 "postgres://postgres@127.0.0.1:$port/regression" -c "CREATE PUBLICATION ripen FOR TABLE ONLY ripen.progress"
}

# Holds what a Ripen holds while it is there (cachestore/src/advisory.rs), for those tests that list all advisory locks: an idle session, so that nothing else is in anybody's way.
hold_claim() {
    coproc claim { exec psql -XAtq "postgres://postgres@127.0.0.1:$port/regression"; }
    claim_pid=$claim_PID
    echo "SELECT pg_advisory_lock(1919512677, 0);" >&"${claim[1]}"
    wait_for psql -XAtq -v ON_ERROR_STOP=1 "postgres://postgres@127.0.0.1:$port/regression" -c "SELECT 1 / count(*) FROM pg_locks WHERE locktype = 'advisory'"
}

start_ripen() {
    local mode=$1 exclusive=
    case $1 in exclusive) mode=read-through exclusive="exclusive = true" ;; write-behind) exclusive="exclusive = true" ;; esac
    cat >"$work/ripen.toml" <<TOML
upstream = "postgres://postgres@127.0.0.1:$port/regression"
listen = "127.0.0.1:$proxy"
admin_listen = "127.0.0.1:$admin"
data_dir = "$work/ripen"
[[table]]
pattern = "*.*"
mode = "$mode"
$exclusive
TOML
    "$ripen" --config "$work/ripen.toml" 2>>"$work/ripen.log" &
    ripen_pid=$!
    wait_for python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$admin/ready')"
}

# run MODE: leaves what psql saw in $dir/MODE/out/results.
run() {
    local mode=$1 began=$SECONDS suite=(--schedule="$source/suite/parallel_schedule")
    [ -z "${REGRESS_TESTS:-}" ] || read -r -d '' -a suite <<<"$REGRESS_TESTS" || true
    work=$dir/$mode port=$(free_port) proxy=$(free_port) admin=$(free_port)
    rm -rf "$work"
    mkdir -p "$work/pg" "$work/out"
    chmod 755 "$dir" "$work"
    [ "$(id -u)" != 0 ] || chown postgres: "$work/pg" "$work/out"
    start_postgres
    local to=$port
    if [ "$mode" = plain ]; then hold_claim; else start_ripen "$mode"; to=$proxy; fi
    # Its own verdict compares with the expected files; ours compares with plain Postgres, so only its running matters here.
    (cd "$work/out" && exec env -u LC_ALL LANG=C PGDATABASE=regression timeout "${LIMIT:-3600}" "${as_postgres[@]}" "$pg_regress" --use-existing --host=127.0.0.1 --port="$to" --user=postgres \
        --dbname=regression --bindir="$bin" --dlpath="$source/lib" --inputdir="$source/suite" --outputdir="$work/out" \
        --max-connections="${CONNECTIONS:-0}" "${suite[@]}") >"$work/verdict" 2>&1 &
    suite_pid=$!
    wait "$suite_pid" || true
    suite_pid=
    [ -z "$ripen_pid" ] || kill -0 "$ripen_pid" 2>/dev/null || { tail -n 20 "$work/ripen.log" >&2; die "regress: Ripen died"; }
    [ -z "$ripen_pid" ] || psql -XAtq -F ' ' "postgres://postgres@127.0.0.1:$proxy/regression" -c "SHOW ripen.status" >"$work/status" 2>>"$work/ripen.log" || true
    finish
    say "regress: $mode: $((SECONDS - began)) s,$(sed -n '/tests .*passed\|tests failed/s/^//p' "$work/verdict" | tr '\n' ' ')"
}

[ -x "$ripen" ] || die "regress: build it first: make regress"
mkdir -p "$dir"
[ -d "$source" ] || get_suite
[ -n "${REGRESS_KEEP_PLAIN:-}" ] || run plain
status=0
for mode in "${modes[@]}"; do
    run "$mode"
    python3 "$root_dir/scripts/regress-compare.py" "$dir/plain/out/results" "$dir/$mode/out/results" "$root_dir/tests/regress/exceptions" "$mode" || status=1
done
exit "$status"
