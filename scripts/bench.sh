#!/usr/bin/env bash
# Plain Postgres, PgBouncer and Ripen on one machine, in one run: rates as medians, and ratios to plain Postgres. Beside them a server that only answers
# constants: what the machine and pgbench leave room for. Then what a queued write costs Postgres, what a cached row costs in memory, and how fast a full queue drains.
# Usage: scripts/bench.sh   (ROUNDS=3, SECONDS_EACH=5, ROWS=100000, DRAIN_ROWS=1000000; BENCH=compare|queue runs one part)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
bin=$(postgres_bin) || die "bench: no PostgreSQL programs; apt-get install postgresql"
bouncer=$(command -v pgbouncer || ls /usr/sbin/pgbouncer 2>/dev/null) || die "bench: no PgBouncer; apt-get install pgbouncer"
PATH=$bin:$PATH
rows=${ROWS:-100000} drain_rows=${DRAIN_ROWS:-1000000} seconds=${SECONDS_EACH:-5} part=${BENCH:-all}
work=$(mktemp -d /var/tmp/ripen-bench.XXXXXX)
chmod 755 "$work"
mkdir "$work/pg"
[ "$(id -u)" != 0 ] || chown postgres: "$work/pg" "$work"
pids=()

finish() {
    # Postgres ends at once only on SIGINT; a program without a handler ignores that in the background of a script.
    for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
    [ -z "${null_pid:-}" ] || kill "$null_pid" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT

wait_for() {
    for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    tail -n 20 "$work"/*.log >&2 || true
    die "bench: no answer to: $*"
}

# ---- the servers

postgres=$(free_port) pooled=$(free_port) ripen=$(free_port) admin=$(free_port) null=$(free_port)
url() { echo "postgres://postgres@127.0.0.1:$1/postgres"; }
"${as_postgres[@]}" initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 -D "$work/pg/data" >/dev/null
"${as_postgres[@]}" "$bin/postgres" -D "$work/pg/data" -c port="$postgres" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c wal_level=logical -c max_wal_size=4GB -c max_connections=300 -c log_min_messages=fatal 2>"$work/postgres.log" &
pids+=($!)
wait_for psql -XAtqc "SELECT 1" "$(url "$postgres")"
pgbench -i -q -s $(((rows + 99999) / 100000)) "$(url "$postgres")" >/dev/null 2>&1
psql -XAtq "$(url "$postgres")" -c "CREATE TABLE queue (id int PRIMARY KEY, n int NOT NULL, filler text NOT NULL)" \
    -c "INSERT INTO queue SELECT i, 0, repeat('x', 50) FROM generate_series(1, $drain_rows) AS i" -c "VACUUM ANALYZE queue"

cat >"$work/pgbouncer.ini" <<INI
[databases]
* = host=127.0.0.1 port=$postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooled
auth_type = any
pool_mode = session
max_client_conn = 1000
default_pool_size = 100
ignore_startup_parameters = extra_float_digits
INI
"${as_postgres[@]}" "$bouncer" -q "$work/pgbouncer.ini" 2>"$work/pgbouncer.log" &
pids+=($!)
cat >"$work/ripen.toml" <<TOML
write_behind = ["pgbench_accounts"]
memory_max = "8GiB"
max_pending_bytes = "4GiB"
barrier_timeout = "30min"

# Nothing of it is flushed before it is asked for.
[[table]]
pattern = "queue"
mode = "write-behind"
write_delay = "1h"
TOML
target/release/ripen --config "$work/ripen.toml" --upstream "$(url "$postgres")" --listen "127.0.0.1:$ripen" --admin-listen "127.0.0.1:$admin" \
    --data-dir "$work/ripen" 2>"$work/ripen.log" &
ripen_pid=$!
pids+=($ripen_pid)
cargo build --release --locked -q -p ripen-benches --bins
target/release/null_server "$null" &
null_pid=$!
wait_for psql -XAtqc "SELECT 1" "$(url "$pooled")"
wait_for python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$admin/ready')"

resident_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$ripen_pid/status"; }

# ---- the rates

compare() {
    for port in "$postgres" "$pooled" "$ripen"; do warm "$(url "$port")" pgbench_accounts aid abalance "$rows"; done
    target/release/compare benches/pgbench "$rows" "${ROUNDS:-3}" "$seconds" "postgres=$postgres" "pgbouncer=$pooled" "ripen=$ripen" "null=$null"
}

# ---- what is queued

queue() {
    local before after xid0 rows0 wal0 xid1 rows1 wal1 acknowledged started
    before=$(resident_kib)
    warm "$(url "$ripen")" queue id n "$drain_rows"
    after=$(resident_kib)
    printf '%-52s %12s\n' "memory per cached row (92 bytes in Postgres), process" "$(((after - before) * 1024 / drain_rows)) B"
    # Each client counts through its own part of the keys.
    echo '\set n :n + 1
\set id :n * 64 + :client_id + 1
UPDATE queue SET n = n + 1 WHERE id = :id;' >"$work/queue.sql"
    pgbench -n -M prepared -c 64 -j 2 -t $((drain_rows / 64)) -D n=-1 -f "$work/queue.sql" "$(url "$ripen")" >"$work/queue.log"
    read -r xid0 rows0 wal0 < <(effort "$(url "$postgres")" queue)
    acknowledged=$((drain_rows / 64 * 64))
    printf '%-52s %12s\n' "distinct rows pending" "$(psql -XAtq "$(url "$ripen")" -c "SHOW ripen.queue" | sed -n 's/^pending_rows|\([0-9]*\).*/\1/p')"
    started=$(date +%s%N)
    psql -XAtq "$(url "$ripen")" -c "CALL ripen.flush()"
    printf '%-52s %12s\n' "time to drain them" "$((($(date +%s%N) - started) / 1000000)) ms"
    read -r xid1 rows1 wal1 < <(effort "$(url "$postgres")" queue)
    printf '%-52s %12s\n' "transactions in Postgres" "$((xid1 - xid0))" "WAL bytes per row" "$(per $((wal1 - wal0)) "$acknowledged")"
    [ "$(psql -XAtq "$(url "$postgres")" -c "SELECT sum(n) FROM queue")" = "$acknowledged" ] || die "bench: Postgres does not hold what was acknowledged"
    zipf "$postgres" "Postgres"
    zipf "$ripen" "Ripen"
}

# What one acknowledged update of a zipf-distributed table costs Postgres.
zipf() {
    local xid0 rows0 wal0 xid1 rows1 wal1 acknowledged
    read -r xid0 rows0 wal0 < <(effort "$(url "$postgres")" pgbench_accounts)
    acknowledged=$(pgbench -n -M prepared -c 64 -j 2 -T "$seconds" -D rows="$rows" -f benches/pgbench/update_zipf.sql "$(url "$1")" |
        sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p')
    [ "$1" != "$ripen" ] || psql -XAtq "$(url "$ripen")" -c "CALL ripen.flush()"
    # Backends report their row versions late.
    sleep 12
    read -r xid1 rows1 wal1 < <(effort "$(url "$postgres")" pgbench_accounts)
    printf '%-52s %12s\n' "$2: updates acknowledged in $seconds s, zipf, 64 clients" "$acknowledged" "  transactions per acknowledged update" "$(per $((xid1 - xid0)) "$acknowledged")" \
        "  row versions per acknowledged update" "$(per $((rows1 - rows0)) "$acknowledged")" "  WAL bytes per acknowledged update" "$(per $((wal1 - wal0)) "$acknowledged")"
}

say "bench: PostgreSQL $(psql -XAtqc 'SHOW server_version' "$(url "$postgres")"), $(nproc) cores, ${ROUNDS:-3} rounds of $seconds s, $rows rows"
[ "$part" = queue ] || compare
[ "$part" = compare ] || queue
