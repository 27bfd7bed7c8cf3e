#!/usr/bin/env bash
# sysbench's oltp_read_write, unchanged, on a scratch Postgres and through Ripen in front of it, in turns: transactions per second, which share of the statements Postgres had nothing to do with,
# and whether Postgres holds in the end what was read through Ripen.
# Usage: scripts/sysbench.sh [OPTION …]   options for sysbench, e.g. --range-selects=off   (SECONDS_EACH=10, CLIENTS=8, ROUNDS=3, SIZE=10000)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
ripen=${RIPEN:-$root_dir/target/release/ripen}
[ -x "$ripen" ] || die "sysbench: build it first: make build"
command -v sysbench >/dev/null || die "sysbench: apt-get install sysbench"
bin=$(postgres_bin) || die "sysbench: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
work=$root_dir/data/sysbench
ripen_pid= postgres_pid=
trap finish EXIT
trap 'exit 130' INT TERM

rm -rf "$work"
mkdir -p "$work"
start_scratch
server=${DATABASE_URL##*:}

# PORT DATABASE COMMAND: prints what sysbench says.
oltp() {
    sysbench oltp_read_write --db-driver=pgsql --pgsql-host=127.0.0.1 --pgsql-port="$1" --pgsql-user=postgres --pgsql-db="$2" \
        --tables=1 --table-size="${SIZE:-10000}" --threads="${CLIENTS:-8}" --time="${SECONDS_EACH:-10}" "${@:4}" "$3"
}
rate() { sed -n 's/.*transactions: .*(\([0-9.]*\) per sec.*/\1/p'; }

for side in plain cached; do
    psql -XAtqc "CREATE DATABASE $side" "$DATABASE_URL"
    oltp "${server%/*}" "$side" prepare >/dev/null
done
port=$(free_port) admin=$(free_port)
"$ripen" --upstream "${DATABASE_URL%/*}/cached" --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$admin" --data-dir "$work/ripen" --write-behind "public.*" 2>"$work/ripen.log" &
ripen_pid=$!
patiently 300 curl -fsS "http://127.0.0.1:$admin/ready" || die "sysbench: Ripen is not ready; see $work/ripen.log"

# Once without being counted: rows come into memory.
SECONDS_EACH=3 oltp "$port" cached run "$@" >/dev/null
counters "$admin" >"$work/before"
for round in $(seq "${ROUNDS:-3}"); do
    plain=$(oltp "${server%/*}" plain run "$@" | rate)
    cached=$(oltp "$port" cached run "$@" | rate)
    say "round $round: $plain transactions per second on Postgres, $cached through Ripen: $(per "$cached" "$plain")"
done
counters "$admin" >"$work/after"
share "$work/before" "$work/after"

through=$(psql -XAtqc "SELECT count(*), sum(id), sum(k), md5(string_agg(c || pad, '' ORDER BY id)) FROM sbtest1" "postgres://postgres@127.0.0.1:$port/cached")
psql -XAtqc "CALL ripen.flush()" "postgres://postgres@127.0.0.1:$port/cached"
there=$(psql -XAtqc "SELECT count(*), sum(id), sum(k), md5(string_agg(c || pad, '' ORDER BY id)) FROM sbtest1" "${DATABASE_URL%/*}/cached")
dead=$(psql -XAtqc "SELECT count(*) FROM ripen.dead_letter" "${DATABASE_URL%/*}/cached")
[ "$through" = "$there" ] && [ "${there%%|*}" = "${SIZE:-10000}" ] && [ "$dead" = 0 ] || die "sysbench: Postgres has $there, through Ripen $through, dead letters $dead"
say "Postgres has what was read through Ripen: $there"
