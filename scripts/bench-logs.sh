#!/usr/bin/env bash
# What several logs cost: acknowledged writes per second, and per second of Ripen's CPU, with 1, 2 and 4 logs over the same four tables, in turns in one run. Nothing is flushed
# meanwhile (write_delay = 1h), so that what is compared is the logs' own cost. Medians of rounds; ratios count, absolute figures are this machine's.
# Usage: scripts/bench-logs.sh   (LOGS="1 2 4", ROUNDS=5, SECONDS_EACH=5, ROWS=20000 per table, CLIENTS=64)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
bin=$(postgres_bin) || die "bench: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
logs=${LOGS:-1 2 4} rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-5} rows=${ROWS:-20000} clients=${CLIENTS:-64}
work=$(mktemp -d /var/tmp/ripen-bench.XXXXXX)
chmod 755 "$work"
mkdir "$work/pg"
[ "$(id -u)" != 0 ] || chown postgres: "$work/pg" "$work"
postgres_pid= ripen_pid=

finish() {
    [ -z "$ripen_pid" ] || kill -KILL "$ripen_pid" 2>/dev/null || true
    [ -z "$postgres_pid" ] || kill -INT "$postgres_pid" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT

[ -x target/release/ripen ] || die "bench: no target/release/ripen; make build"
postgres=$(free_port) ripen=$(free_port) admin=$(free_port)
url() { echo "postgres://postgres@127.0.0.1:$1/postgres"; }
"${as_postgres[@]}" initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 -D "$work/pg/data" >/dev/null
"${as_postgres[@]}" "$bin/postgres" -D "$work/pg/data" -c port="$postgres" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c wal_level=logical -c max_wal_size=4GB -c max_connections=300 -c log_min_messages=fatal 2>"$work/postgres.log" &
postgres_pid=$!
patiently 300 psql -XAtqc "SELECT 1" "$(url "$postgres")" || die "bench: Postgres does not start"
for table in 0 1 2 3; do
    psql -XAtq "$(url "$postgres")" -c "CREATE TABLE t$table (id int PRIMARY KEY, n bigint NOT NULL)" \
        -c "INSERT INTO t$table SELECT i, 0 FROM generate_series(1, $rows) AS i"
    # Each client writes to one table, so all tables are written to by as many.
    echo "\\set id random(1, $rows)
UPDATE t$table SET n = n + 1 WHERE id = :id;" >"$work/t$table.sql"
done

# The process's user and system time so far, in hundredths of a second.
cpu() { awk '{ print $14 + $15 }' "/proc/$ripen_pid/stat"; }

# LOGS: starts one with so many, all rows in memory.
start_ripen() {
    {
        echo "logs = $1"
        echo 'write_behind = ["public.*"]'
        echo 'write_delay = "1h"'
        for table in 0 1 2 3; do printf '[[table]]\npattern = "t%s"\nlog = %s\n' "$table" $((table % $1)); done
    } >"$work/ripen.toml"
    target/release/ripen --config "$work/ripen.toml" --upstream "$(url "$postgres")" --listen "127.0.0.1:$ripen" --admin-listen "127.0.0.1:$admin" \
        --data-dir "$work/ripen$1" 2>>"$work/ripen.log" &
    ripen_pid=$!
    patiently 300 python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$admin/ready')" || die "bench: Ripen is not ready: $(tail -n 5 "$work/ripen.log")"
    for table in 0 1 2 3; do warm "$(url "$ripen")" "t$table" id n "$rows"; done
}

stop_ripen() {
    psql -XAtq "$(url "$ripen")" -c "CALL ripen.flush()"
    kill -TERM "$ripen_pid"
    wait "$ripen_pid" || die "bench: Ripen ended badly: $(tail -n 5 "$work/ripen.log")"
    ripen_pid=
}

# LOGS: one round; a line of writes per second and writes per second of CPU.
round() {
    local before after writes syncs0 syncs1
    start_ripen "$1"
    syncs0=$(syncs)
    before=$(cpu)
    pgbench -n -M prepared -c "$clients" -j 2 -T "$seconds" -f "$work/t0.sql" -f "$work/t1.sql" -f "$work/t2.sql" -f "$work/t3.sql" "$(url "$ripen")" >"$work/round.log" 2>&1 \
        || die "bench: pgbench failed: $(tail -n 5 "$work/round.log")"
    after=$(cpu)
    syncs1=$(syncs)
    grep -q '^number of failed transactions: 0 ' "$work/round.log" || die "bench: statements failed: $(cat "$work/round.log")"
    writes=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/round.log")
    queued=$(psql -XAtq "$(url "$ripen")" -c "SHOW ripen.queue" | sed -n 's/^writes|\([0-9]*\).*/\1/p')
    [ "$queued" -ge "$writes" ] || die "bench: only $queued of $writes writes were queued"
    printf '%s %s %s\n' $((writes / seconds)) "$(per $((writes * 100)) $((after - before)))" "$(per "$writes" $((syncs1 - syncs0)))" >>"$work/rounds$1"
    stop_ripen
}

syncs() { psql -XAtq "$(url "$ripen")" -c "SHOW ripen.logs" | awk -F '|' '{ sum += $6 } END { print sum }'; }

# LOGS COLUMN: the median of its rounds.
median() { awk -v column="$2" '{ print $column }' "$work/rounds$1" | sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

for ((n = 0; n < rounds; n++)); do
    for count in $logs; do round "$count"; done
done
first=${logs%% *}
printf '%-8s %16s %22s %10s %16s\n' logs "writes per s" "writes per CPU second" "ratio" "writes per sync"
for count in $logs; do
    printf '%-8s %16s %22.0f %10s %16.1f\n' "$count" "$(median "$count" 1)" "$(median "$count" 2)" "$(per "$(median "$count" 2)" "$(median "$first" 2)")" "$(median "$count" 3)"
done
