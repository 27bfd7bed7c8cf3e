#!/usr/bin/env bash
# Restarts three nodes one after the other under load: each is drained, stopped, started again and waited for until one more may be lost. Clients that reconnect see no
# error, and no acknowledged write is lost. Usage: scripts/rolling.sh   (CLIENTS=8; RIPEN_NEW=path: what the nodes are started with the second time, as in an upgrade)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
clients=${CLIENTS:-8}
name=rolling table=rolling_demo work=$root_dir/data/rolling
ripen=${RIPEN:-$root_dir/target/release/ripen}
new=${RIPEN_NEW:-$ripen}
. "$root_dir/scripts/nodes.sh"
bin=$(postgres_bin) || die "rolling: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
trap end_nodes EXIT
trap 'exit 130' INT TERM

for program in "$ripen" "$new"; do [ -x "$program" ] || die "rolling: no program $program; make rolling builds one"; done
start_nodes
say "rolling: three nodes on ports ${ports[*]}; $clients clients, each at whatever node takes it, while all are restarted$([ "$new" = "$ripen" ] || echo " as $new")"
python3 "$root_dir/scripts/reconnecting.py" "$work/stop" "$clients" "$table" "$database" "${user%@}" "${ports[@]}" >"$work/clients.out" &
load=$!
wait_until "the first acknowledged writes" grep -q "^working" "$work/clients.out"

for n in 0 1 2; do
    begun=$(date +%s%N)
    "$ripen" node drain --admin "127.0.0.1:${admins[n]}" >/dev/null || die "rolling: node $n was not drained"
    kill -TERM "${pids[n]}"
    wait "${pids[n]}" || die "rolling: node $n did not end in order; see $work/node$n.log"
    ripen=$new start "$n"
    wait_until "node $n, started again" admin "$n" /ready
    wait_until "a cluster that may lose a node" admin "$n" /safe
    echo "node $n: drained, stopped, started again, and safe after $((($(date +%s%N) - begun) / 1000000)) ms"
done

touch "$work/stop"
wait "$load" || { cat "$work/clients.out" >&2; die "rolling: a client saw an error"; }
tail -n 1 "$work/clients.out"
acknowledged=$(sed -n 's/^\([0-9]*\) updates acknowledged.*/\1/p' "$work/clients.out")
count_increments "$acknowledged" 2
