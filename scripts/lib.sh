# Shared by the scripts: where things are and how to run what needs another user. Sourced, never run.

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs a command as root, or fails.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif sudo -n true 2>/dev/null; then sudo -n "$@"
    else return 1
    fi
}

# Put in front of a command that must not run as root; empty when we are not. An array, so that "&" and signals reach the command itself.
as_postgres=()
[ "$(id -u)" != 0 ] || as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups)

# The newest installed Postgres server's programs.
postgres_bin() {
    local initdb
    initdb=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
    [ -n "$initdb" ] || initdb=$(command -v initdb) || return 1
    dirname "$initdb"
}

# A port of this machine that nobody listens on now.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# URL TABLE → what Postgres has done so far: transaction ids used, row versions written by updates of the table (its backends report them up to 10 s late), WAL bytes.
effort() {
    psql -XAtq -F ' ' -v ON_ERROR_STOP=1 "$1" -c "SELECT pg_snapshot_xmax(pg_current_snapshot()),
        (SELECT coalesce(sum(n_tup_upd), 0) FROM pg_stat_user_tables WHERE relname = '$2'), pg_current_wal_insert_lsn() - '0/0'"
}

# Decimals of a / b.
per() { awk -v a="$1" -v b="$2" 'BEGIN { if (b == 0) print "-"; else printf "%.4f", a / b }'; }

# URL TABLE KEY COLUMN ROWS: reads every row once, so that buffers and caches are warm.
warm() {
    seq 1 "$5" | xargs -n 500 | tr ' ' ',' | sed "s/.*/SELECT $4 FROM $2 WHERE $3 IN (&);/" | psql -XAtq -o /dev/null "$1"
}

# TENTHS COMMAND…: tries until it succeeds, silently; fails after so many tenths of a second.
patiently() {
    local tenths=$1 n
    shift
    for n in $(seq "$tenths"); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    return 1
}

# Starts a scratch Postgres under ./data; sets DATABASE_URL, postgres_pid and scratch. Wants $bin (its programs) and $work (a folder for its log).
start_scratch() {
    scratch=$root_dir/data/scratch
    mkdir -p "$root_dir/data"
    # As root, Postgres runs as another user, who must be able to reach its folder.
    "${as_postgres[@]}" test -x "$root_dir/data" || scratch=/var/tmp/ripen-scratch
    rm -rf "$scratch"
    mkdir -p "$scratch"
    [ "$(id -u)" != 0 ] || chown postgres: "$scratch"
    "${as_postgres[@]}" initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 -D "$scratch/data" >/dev/null
    local port
    port=$(free_port)
    "${as_postgres[@]}" "$bin/postgres" -D "$scratch/data" -c port="$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
        -c wal_level=logical -c max_wal_size=4GB -c log_min_messages=fatal 2>"$work/postgres.log" &
    postgres_pid=$!
    DATABASE_URL=postgres://postgres@127.0.0.1:$port/postgres
    patiently 300 psql -XAtqc "SELECT 1" "$DATABASE_URL" || die "the scratch Postgres does not answer; see $work/postgres.log"
}

# Ends Ripen and the scratch Postgres, if they were started (ripen_pid, postgres_pid).
finish() {
    [ -z "$ripen_pid" ] || { kill -TERM "$ripen_pid" 2>/dev/null && wait "$ripen_pid" || true; }
    [ -z "$postgres_pid" ] || { kill -INT "$postgres_pid" 2>/dev/null && wait "$postgres_pid" || true; }
}

# ADMIN_PORT → its counters of statements, one line each: kind, reason, number.
counters() {
    curl -fsS "http://127.0.0.1:$1/metrics" | sed -n 's/^ripen_statements_total{kind="\([a-z]*\)"\(,reason="\([a-z-]*\)"\)\?.*} \([0-9]*\).*/\1 \3 \4/p' | sort
}

# BEFORE AFTER: what was counted in between, and which share of it Postgres had nothing to do with.
share() {
    join -j 1 -a 1 -o 0,1.2,2.2 -e 0 <(awk '{ $3 == "" ? k = $1 : k = $1 ":" $2; print k, $NF }' "$2" | sort) \
        <(awk '{ $3 == "" ? k = $1 : k = $1 ":" $2; print k, $NF }' "$1" | sort) |
        awk '{ n = $2 - $3; if (n > 0) { count[$1] = n; split($1, part, ":"); if (part[1] != "promote") all += n; if (part[1] == "read" || part[1] == "write") own += n } }
             END { for (k in count) printf "  %-40s %6d\n", k, count[k]; printf "  %.1f %% of %d statements without Postgres\n", 100 * own / all, all }' | sort -k2,2nr
}
