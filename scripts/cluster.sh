#!/usr/bin/env bash
# Three nodes on one machine in front of one Postgres: pgbench writes through two of them while the leader is killed with -9. Shows that nobody else noticed more than a
# delay, and that nothing acknowledged is lost. Usage: scripts/cluster.sh [--stay]   (SECONDS_EACH=10, CLIENTS=4)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
seconds=${SECONDS_EACH:-10}
clients=${CLIENTS:-4}
stay=${1:-}
ripen=${RIPEN:-$root_dir/target/release/ripen}
bin=$(postgres_bin) || die "cluster: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
work=$root_dir/data/cluster
postgres_pid= scratch=
pids=() ports=() admins=() members=() benches=()

finish() {
    local n
    for n in 0 1 2; do [ -z "${pids[n]:-}" ] || kill -TERM "${pids[n]}" 2>/dev/null || true; done
    for n in 0 1 2; do [ -z "${pids[n]:-}" ] || wait "${pids[n]}" 2>/dev/null || true; done
    [ -z "$postgres_pid" ] || { kill -INT "$postgres_pid" 2>/dev/null && wait "$postgres_pid" || true; }
}
trap finish EXIT
trap 'exit 130' INT TERM

[ -x "$ripen" ] || die "cluster: build it first: make cluster"
rm -rf "$work"
mkdir -p "$work"
if [ -z "${DATABASE_URL:-}" ]; then start_scratch; fi
login=${DATABASE_URL#*://}
user=$(case $login in *@*) echo "${login%%@*}@" ;; esac)
database=${login#*/}
ask() { psql -XAtq -v ON_ERROR_STOP=1 "$DATABASE_URL" -c "$1"; }
through() { echo "postgres://${user}127.0.0.1:${ports[$1]}/$database"; }

export RIPEN_CLUSTER_SECRET=${RIPEN_CLUSTER_SECRET:-$(head -c 24 /dev/urandom | base64)}

# n: starts node n; the first one ever founds the cluster, the others join it.
start() {
    local n=$1 how
    if [ "$n" = 0 ]; then how=(--bootstrap); else how=(--join "127.0.0.1:${members[0]}"); fi
    "$ripen" --upstream "$DATABASE_URL" --listen "127.0.0.1:${ports[n]}" --admin-listen "127.0.0.1:${admins[n]}" --data-dir "$work/node$n" \
        --cluster-listen "127.0.0.1:${members[n]}" "${how[@]}" --write-behind cluster_demo 2>>"$work/node$n.log" &
    pids[n]=$!
}

# n PATH: what the node's admin server answers; fails unless it is 200.
admin() {
    python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())' "http://127.0.0.1:${admins[$1]}$2" 2>/dev/null
}

leader() {
    local n
    for n in 0 1 2; do
        if kill -0 "${pids[n]}" 2>/dev/null && admin "$n" /leader >/dev/null; then echo "$n"; return; fi
    done
    return 1
}

wait_until() {
    local what=$1
    shift
    patiently 600 "$@" && return
    tail -n 5 "$work"/node*.log >&2
    die "cluster: $what did not come"
}

ask "SET client_min_messages = warning; DROP TABLE IF EXISTS cluster_demo; CREATE TABLE cluster_demo (id int PRIMARY KEY, n bigint NOT NULL); INSERT INTO cluster_demo SELECT i, 0 FROM generate_series(1, 1000) i"
for n in 0 1 2; do ports[n]=$(free_port) admins[n]=$(free_port) members[n]=$(free_port); done
for n in 0 1 2; do start "$n"; done
for n in 0 1 2; do wait_until "node $n" admin "$n" /ready; done
wait_until "a cluster that may lose a node" admin 0 /safe
first=$(leader)
others=()
for n in 0 1 2; do [ "$n" = "$first" ] || others+=("$n"); done
say "cluster: three nodes on ports ${ports[*]}; node $first leads. $clients clients on each of the other two for $seconds seconds, and after half of them node $first is killed with -9"

cat >"$work/update.sql" <<'SQL'
\set id random(1, 1000)
UPDATE cluster_demo SET n = n + 1 WHERE id = :id;
SQL
for n in "${others[@]}"; do
    pgbench -n -M prepared -c "$clients" -T "$seconds" -f "$work/update.sql" --progress=1 "$(through "$n")" >"$work/pgbench$n.out" 2>&1 &
    benches+=($!)
done
sleep $((seconds / 2))
kill -9 "${pids[first]}"
killed=$(date +%s%N)
wait_until "another leader" leader
say "cluster: node $(leader) leads $((($(date +%s%N) - killed) / 1000000)) ms later (as seen by asking once in 100 ms)"
wait "${benches[@]}" || { tail -n 5 "$work"/pgbench*.out >&2; die "cluster: a client of a living node saw an error"; }

acknowledged=0
for n in "${others[@]}"; do
    done=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$work/pgbench$n.out")
    failed=$(sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p' "$work/pgbench$n.out")
    echo "node $n: $done updates acknowledged, ${failed:-0} failed, slowest second $(sed -n 's/^progress: .* s, \([0-9.]*\) tps.*/\1/p' "$work/pgbench$n.out" | sort -n | head -n 1) updates"
    acknowledged=$((acknowledged + done))
done
start "$first"
wait_until "node $first, started again" admin "$first" /ready
psql -XAtq -v ON_ERROR_STOP=1 "$(through "$first")" -c "CALL ripen.flush()"
through_first=$(psql -XAtq "$(through "$first")" -c "SELECT sum(n) FROM cluster_demo")
written=$(ask "SELECT sum(n) FROM cluster_demo")
if [ "$written" = "$acknowledged" ] && [ "$through_first" = "$acknowledged" ]; then
    echo "after CALL ripen.flush(), Postgres holds all $acknowledged acknowledged increments, and node $first, started again, says so, too"
else
    echo "LOST OR DOUBLED: $acknowledged increments were acknowledged, Postgres holds $written, node $first says $through_first"
    exit 1
fi
if [ "$stay" = --stay ]; then
    echo "try: psql $(through 0)   (nodes on ports ${ports[*]}; Ctrl-C ends)"
    wait
fi
