#!/usr/bin/env bash
# The main job, shown on a real client: pgbench against Postgres and through Ripen, side by side, and whether Postgres ends up with what was acknowledged.
# In front of DATABASE_URL if set, else of a scratch Postgres under ./data. Usage: scripts/demo.sh [--stay]   (SECONDS_EACH=10, CLIENTS=8, SCALE=1)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
seconds=${SECONDS_EACH:-10}
clients=${CLIENTS:-8}
scale=${SCALE:-1}
stay=${1:-}
ripen=$root_dir/target/release/ripen
bin=$(postgres_bin) || die "demo: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
work=$root_dir/data/demo
ripen_pid= postgres_pid= scratch=

trap finish EXIT
trap 'exit 130' INT TERM

# ---- the system of record

wait_for() {
    local what=$1 n
    shift
    for n in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
        # A Ripen that ended has said why.
        if [ -n "$ripen_pid" ] && ! kill -0 "$ripen_pid" 2>/dev/null; then break; fi
    done
    [ ! -s "$work/ripen.log" ] || tail -n 20 "$work/ripen.log" >&2
    die "demo: $what does not answer"
}

ask() { psql -XAtq -v ON_ERROR_STOP=1 "$DATABASE_URL" -c "$1"; }

# ---- measuring: transactions per second of pgbench, and what Postgres had to do meanwhile

cat_update() {
    cat <<'SQL'
\set aid random_zipfian(1, 100000 * :scale, 1.1)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SQL
}

# bench URL args… → "transactions tps"
bench() {
    local url=$1 out
    shift
    out=$(pgbench -n -M prepared -c "$clients" -j 2 -T "$seconds" "$@" "$url" 2>&1) || { say "$out"; die "demo: pgbench failed"; }
    printf '%s %s\n' "$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' <<<"$out")" \
        "$(sed -n 's/^tps = \([0-9]*\).*/\1/p' <<<"$out" | head -n 1)"
}

balance() { ask "SELECT sum(abalance::bigint) FROM pgbench_accounts"; }
times() { awk -v a="$1" -v b="$2" 'BEGIN { if (b == 0) print "-"; else printf "%.2f x", a / b }'; }

# ---- the run

[ -x "$ripen" ] || die "demo: build it first: make demo"
rm -rf "$work"
mkdir -p "$work"
if [ -z "${DATABASE_URL:-}" ]; then start_scratch; fi
say "demo: Postgres $(ask 'SHOW server_version') at ${DATABASE_URL##*@}"
if [ -z "$(ask "SELECT to_regclass('pgbench_accounts')")" ]; then
    pgbench -i -q -s "$scale" "$DATABASE_URL" >/dev/null 2>&1 || die "demo: pgbench -i failed"
else
    scale=$(ask "SELECT greatest(count(*) / 100000, 1) FROM pgbench_accounts")
fi
cat_update >"$work/update.sql"

say "demo: $seconds seconds each, $clients clients: Postgres alone, then the same through Ripen"
rows=$((scale * 100000))
warm "$DATABASE_URL" pgbench_accounts aid abalance "$rows" # Both sides begin warm.
read -r _ direct_reads < <(bench "$DATABASE_URL" -S)
read -r xid0 rows0 wal0 < <(effort "$DATABASE_URL" pgbench_accounts)
read -r direct_acknowledged direct_writes < <(bench "$DATABASE_URL" -f "$work/update.sql" -D scale="$scale")
read -r xid1 rows1 wal1 < <(effort "$DATABASE_URL" pgbench_accounts)
direct_xids=$((xid1 - xid0)) direct_rows=$((rows1 - rows0)) direct_wal=$((wal1 - wal0))

listen=127.0.0.1:${RIPEN_PORT_WANTED:-6432}
admin=127.0.0.1:6433
if (exec 3<>"/dev/tcp/127.0.0.1/${listen##*:}") 2>/dev/null; then listen=127.0.0.1:$(free_port); fi
if (exec 3<>"/dev/tcp/127.0.0.1/${admin##*:}") 2>/dev/null; then admin=127.0.0.1:$(free_port); fi
"$ripen" --upstream "$DATABASE_URL" --listen "$listen" --admin-listen "$admin" --data-dir "$work/ripen" --write-behind pgbench_accounts 2>"$work/ripen.log" &
ripen_pid=$!
ready() {
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' "http://$admin/ready"
}
wait_for "Ripen" ready
login=${DATABASE_URL#*://}
proxied_url=postgres://$(case $login in *@*) echo "${login%%@*}@" ;; esac)$listen/${login#*/}

warm "$proxied_url" pgbench_accounts aid abalance "$rows" # The first reads load the cache.
read -r _ ripen_reads < <(bench "$proxied_url" -S)
before=$(balance)
read -r xid0 rows0 wal0 < <(effort "$DATABASE_URL" pgbench_accounts)
read -r acknowledged ripen_writes < <(bench "$proxied_url" -f "$work/update.sql" -D scale="$scale")
psql -XAtq -v ON_ERROR_STOP=1 "$proxied_url" -c "CALL ripen.flush()"
after=$(balance)
# Rows are reported late; transactions and WAL are exact at once.
read -r xid1 rows1 wal1 < <(effort "$DATABASE_URL" pgbench_accounts)
for _ in $(seq 12); do
    [ "$rows1" -gt "$rows0" ] && [ "$rows1" = "${seen:-}" ] && break
    seen=$rows1
    sleep 1
    read -r _ rows1 _ < <(effort "$DATABASE_URL" pgbench_accounts)
done

row() { printf '%-44s %16s %16s %10s\n' "$@"; }
echo
row "$clients clients, $seconds s each" "Postgres" "through Ripen" ""
row "reads/s (pgbench -S, prepared)" "$direct_reads" "$ripen_reads" "$(times "$ripen_reads" "$direct_reads")"
row "writes/s (one row, zipf 1.1, durable)" "$direct_writes" "$ripen_writes" "$(times "$ripen_writes" "$direct_writes")"
row "  writes acknowledged" "$direct_acknowledged" "$acknowledged" ""
row "  Postgres transactions per acknowledged write" "$(per "$direct_xids" "$direct_acknowledged")" "$(per $((xid1 - xid0)) "$acknowledged")" ""
row "  row versions per acknowledged write" "$(per "$direct_rows" "$direct_acknowledged")" "$(per $((rows1 - rows0)) "$acknowledged")" ""
row "  WAL bytes per acknowledged write" "$(per "$direct_wal" "$direct_acknowledged")" "$(per $((wal1 - wal0)) "$acknowledged")" ""
echo
if [ "$((after - before))" = "$acknowledged" ]; then
    echo "after CALL ripen.flush(), Postgres holds all $acknowledged acknowledged increments"
else
    echo "LOST OR DOUBLED: $acknowledged increments were acknowledged, Postgres holds $((after - before))"
    exit 1
fi

if [ "$stay" = --stay ]; then
    echo
    echo "Ripen is up (Ctrl-C ends it). Try:"
    echo "  psql $proxied_url"
    echo "    SELECT * FROM pgbench_accounts WHERE aid = 1;"
    echo "    UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1;"
    echo "    SHOW ripen.status;"
    echo "  and Postgres itself: psql $DATABASE_URL      metrics: http://$admin/metrics"
    wait "$ripen_pid"
fi
