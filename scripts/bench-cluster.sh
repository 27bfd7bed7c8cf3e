#!/usr/bin/env bash
# One Postgres, a Ripen alone and three nodes on one machine, asked in turns: rates, statements per second of CPU, what a write costs on the network, memory per node, and how long
# writes pause when the leader is killed. Medians of rounds; ratios count, absolute figures are this machine's.
# Then the same three nodes with slow cables between them.
# Usage: scripts/bench-cluster.sh   (ROUNDS=3, SECONDS_EACH=5, ROWS=100000, CLIENTS="8 64", KILLS=3, DELAYS="0.2 1 10 20" (ms to and fro), RIPEN=target/release/ripen)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
name=bench-cluster table=pgbench_accounts work=$(mktemp -d /var/tmp/ripen-bench-cluster.XXXXXX)
ripen=${RIPEN:-$root_dir/target/release/ripen}
. "$root_dir/scripts/nodes.sh"
bin=$(postgres_bin) || die "bench-cluster: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-5} rows=${ROWS:-100000} kills=${KILLS:-3}
read -r -a clients <<<"${CLIENTS:-8 64}"
alone=3
chmod 755 "$work"

finish() {
    [ -z "${pids[alone]:-}" ] || { kill -TERM "${pids[alone]}" 2>/dev/null && wait "${pids[alone]}" || true; }
    end_nodes
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
[ -x "$ripen" ] || die "bench-cluster: build it first: make bench-cluster"

# ---- the servers: a database for each way

start_scratch
server=${DATABASE_URL%/*}
for base in plain alone three; do
    psql -XAtq "$DATABASE_URL" -c "CREATE DATABASE $base"
    pgbench -i -q -s $(((rows + 99999) / 100000)) "$server/$base" >/dev/null 2>&1
done
ports[alone]=$(free_port) admins[alone]=$(free_port)
"$ripen" --upstream "$server/alone" --listen "127.0.0.1:${ports[alone]}" --admin-listen "127.0.0.1:${admins[alone]}" --data-dir "$work/node$alone" --slot ripen_alone \
    --write-behind "$table" 2>>"$work/node$alone.log" &
pids[alone]=$!
wait_until "a node alone" admin "$alone" /ready
DATABASE_URL=$server/three
run_nodes
lead=$(leader)
follow=$(((lead + 1) % 3))
say "bench-cluster: PostgreSQL $(psql -XAtqc 'SHOW server_version' "$DATABASE_URL"), $(nproc) cores, $rounds rounds of $seconds s, $rows rows"

# ---- one measurement

# TARGET: the URL of Postgres itself (plain), or of a node.
url() {
    case $1 in
        plain) echo "$server/plain" ;;
        "$alone") echo "postgres://${user}127.0.0.1:${ports[$1]}/alone" ;;
        *) through "$1" ;;
    esac
}

# NODES… → CPU used so far, in hundredths of a second.
cpu() {
    local n sum=0
    for n in "$@"; do sum=$((sum + $(awk '{ print $14 + $15 }' "/proc/${pids[n]}/stat"))); done
    echo "$sum"
}

# Bytes that nodes have sent each other so far over connections that are open now.
on_the_wire() {
    ss -Htnio state established | awk -v members="${members[*]}" '
        BEGIN { split(members, list, " "); for (i in list) is[list[i]] = 1 }
        /^[0-9]/ { n = split($3, from, ":"); m = split($4, to, ":"); ours = (from[n] in is) || (to[m] in is); next }
        ours && match($0, /bytes_sent:[0-9]+/) { sum += substr($0, RSTART + 11, RLENGTH - 11) }
        END { printf "%d", sum }'
}

# SCRIPT CLIENTS TARGET NODES…: one run; a line "rate latency_ms per_cpu_second bytes_per_statement". CPU is that of the NODES.
measure() {
    local script=$1 many=$2 target=$3 cpu0 cpu1 wire0 wire1 out
    shift 3
    cpu0=$(cpu "$@") wire0=$(on_the_wire)
    out=$(pgbench -n -M prepared -c "$many" -j 2 -T "$seconds" -D rows="$rows" -f "benches/pgbench/$script" "$(url "$target")")
    cpu1=$(cpu "$@") wire1=$(on_the_wire)
    echo "$out" | awk -v cpu=$((cpu1 - cpu0)) -v wire=$((wire1 - wire0)) '
        /^number of transactions actually processed/ { split($6, n, "/"); done = n[1] }
        /^latency average/ { latency = $4 }
        /^tps/ { rate = $3 }
        END { printf "%s %s %.0f %.0f\n", rate, latency, cpu ? done * 100 / cpu : 0, wire / done }'
}

# SCRIPT TITLE: every target in turns; medians.
compare() {
    local script=$1 many round target plain rate file
    printf '\n%-34s %8s %10s %8s %12s %14s %14s\n' "$2" clients "1/s" ratio "latency ms" "per CPU second" "bytes on wire"
    for many in "${clients[@]}"; do
        file=$work/$script.$many
        for round in $(seq "$rounds"); do
            measure "$script" "$many" plain >>"$file.plain"
            measure "$script" "$many" "$alone" "$alone" >>"$file.$alone"
            for target in "$lead" "$follow"; do measure "$script" "$many" "$target" 0 1 2 >>"$file.$target"; done
        done
        plain=$(median 1 "$file.plain")
        for target in plain "$alone" "$lead" "$follow"; do
            rate=$(median 1 "$file.$target")
            printf '%-34s %8s %10.0f %8.2f %12s %14s %14s\n' "$(title "$target")" "$many" "$rate" "$(per "$rate" "$plain")" "$(median 2 "$file.$target")" "$(median 3 "$file.$target")" "$(median 4 "$file.$target")"
        done
    done
}

title() {
    case $1 in
        plain) echo "Postgres" ;;
        "$alone") echo "Ripen, one node" ;;
        "$lead") echo "Ripen, three nodes, at the leader" ;;
        *) echo "Ripen, three nodes, at a follower" ;;
    esac
}

# COLUMN FILE
median() { awk -v c="$1" '{ print $c }' "$2" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# ---- how long writes pause

# LEADER STAYS: one client at a node that stays, the leader killed in the middle; the longest time between two answers, in milliseconds.
gap() {
    local log=$work/gap bench
    rm -f "$log".*
    pgbench -n -M prepared -c 1 -T 8 -D rows="$rows" -l --log-prefix="$log" -f benches/pgbench/update_zipf.sql "$(url "$2")" >/dev/null 2>&1 &
    bench=$!
    sleep 3
    kill -9 "${pids[$1]}"
    wait "${pids[$1]}" 2>/dev/null || true
    wait "$bench" || die "bench-cluster: a client of a living node saw an error"
    awk '{ at = $5 * 1000 + $6 / 1000; if (NR > 1 && at - last > worst) worst = at - last; last = at } END { printf "%.0f\n", worst }' "$log".*
}

# NODE: what its process has in memory, in MiB.
resident() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/${pids[$1]}/status"; }

for target in plain "$alone" "$lead" "$follow"; do warm "$(url "$target")" pgbench_accounts aid abalance "$rows"; done
compare read.sql "cached point reads"
compare update_zipf.sql "durable updates, zipf"
echo
printf '%-34s %s\n' "memory, MiB: a node alone" "$(resident "$alone")" "memory, MiB: leader" "$(resident "$lead")" "memory, MiB: follower" "$(resident "$follow")"
for round in $(seq "$kills"); do
    lead=$(leader)
    follow=$(((lead + 1) % 3))
    gap "$lead" "$follow" >>"$work/gaps"
    start "$lead"
    wait_until "node $lead, started again" admin "$lead" /ready
    wait_until "a cluster that may lose a node" admin "$follow" /safe
done
printf '%-34s %s\n' "leader killed: writes paused, ms" "$(sort -g "$work/gaps" | tr '\n' ' ')"

# ---- slow cables

# MS: a cluster of its own whose nodes are so far apart, to and fro.
far_apart() {
    local data=$work/far.$1 target
    stop_nodes
    PGOPTIONS="-c client_min_messages=warning" psql -XAtq "$server/plain" -c "DROP SCHEMA IF EXISTS ripen CASCADE" -c "DROP PUBLICATION IF EXISTS ripen"
    DATABASE_URL=$server/plain work=$data
    mkdir -p "$data"
    run_nodes "$(awk -v ms="$1" 'BEGIN { print ms / 2 }')"
    lead=$(leader)
    follow=$(((lead + 1) % 3))
    for target in "$lead" "$follow"; do
        warm "$(url "$target")" pgbench_accounts aid abalance "$rows"
        for script in read.sql update_zipf.sql; do
            for _ in $(seq "$rounds"); do measure "$script" 1 "$target" 0 1 2 >>"$data/$script.$target"; done
        done
    done
    gap "$lead" "$follow" >"$data/gap"
    unset "pids[$lead]"
    printf '%-34s %14s %14s %14s %14s %14s\n' "$1" "$(median 2 "$data/read.sql.$lead")" "$(median 2 "$data/read.sql.$follow")" \
        "$(median 2 "$data/update_zipf.sql.$lead")" "$(median 2 "$data/update_zipf.sql.$follow")" "$(cat "$data/gap")"
}

printf '\n%-34s %14s %14s %14s %14s %14s\n' "ms to and fro between nodes" "read, leader" "read, follower" "write, leader" "write, follower" "leader killed"
for delay in ${DELAYS-0.2 1 10 20}; do far_apart "$delay"; done
