#!/usr/bin/env bash
# Three nodes on one machine in front of one Postgres: pgbench writes through two of them while the leader is killed with -9. Shows that nobody else noticed more than a
# delay, and that nothing acknowledged is lost. Usage: scripts/cluster.sh [--stay]   (SECONDS_EACH=10, CLIENTS=4)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
seconds=${SECONDS_EACH:-10}
clients=${CLIENTS:-4}
stay=${1:-}
name=cluster table=cluster_demo work=$root_dir/data/cluster
ripen=${RIPEN:-$root_dir/target/release/ripen}
. "$root_dir/scripts/nodes.sh"
bin=$(postgres_bin) || die "cluster: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
benches=()
trap end_nodes EXIT
trap 'exit 130' INT TERM

[ -x "$ripen" ] || die "cluster: build it first: make cluster"
start_nodes
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
count_increments "$acknowledged" "$first"
if [ "$stay" = --stay ]; then
    echo "try: psql $(through 0)   (nodes on ports ${ports[*]}; Ctrl-C ends)"
    wait
fi
