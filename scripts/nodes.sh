# Three nodes on this machine in front of one Postgres, for scripts that show what becomes of them. Sourced after lib.sh, never run.
# Wants $name (whose words these are), $ripen (the program), $table (the one that is written behind) and $work (a folder for data and logs).

postgres_pid= scratch= cable=
pids=() ports=() admins=() members=() reached=()

# Ends all nodes that run, then Postgres if it is ours.
end_nodes() {
    stop_nodes
    [ -z "$postgres_pid" ] || { kill -INT "$postgres_pid" 2>/dev/null && wait "$postgres_pid" || true; }
}

stop_nodes() {
    local n
    for n in 0 1 2; do [ -z "${pids[n]:-}" ] || kill -TERM "${pids[n]}" 2>/dev/null || true; done
    for n in 0 1 2; do [ -z "${pids[n]:-}" ] || wait "${pids[n]}" 2>/dev/null || true; done
    [ -z "$cable" ] || { kill "$cable" 2>/dev/null && wait "$cable" 2>/dev/null || true; }
    cable=
}

# Finds or starts Postgres, makes the table (1000 rows of a key and a count of 0), and runs the nodes.
start_nodes() {
    rm -rf "$work"
    mkdir -p "$work"
    if [ -z "${DATABASE_URL:-}" ]; then start_scratch; fi
    ask "SET client_min_messages = warning; DROP TABLE IF EXISTS $table; CREATE TABLE $table (id int PRIMARY KEY, n bigint NOT NULL); INSERT INTO $table SELECT i, 0 FROM generate_series(1, 1000) i"
    run_nodes
}

# [MS]: starts the nodes in front of $DATABASE_URL, and waits until one of them may be lost. What they send each other takes MS milliseconds either way.
run_nodes() {
    local n delay=${1:-}
    login=${DATABASE_URL#*://}
    user=$(case $login in *@*) echo "${login%%@*}@" ;; esac)
    database=${login#*/}
    export RIPEN_CLUSTER_SECRET=${RIPEN_CLUSTER_SECRET:-$(head -c 24 /dev/urandom | base64)}
    for n in 0 1 2; do ports[n]=$(free_port) admins[n]=$(free_port) members[n]=$(free_port); done
    reached=("${members[@]}")
    if [ -n "$delay" ]; then
        for n in 0 1 2; do reached[n]=$(free_port); done
        "$root_dir/scripts/delay.py" "$delay" "${reached[0]}:${members[0]}" "${reached[1]}:${members[1]}" "${reached[2]}:${members[2]}" &
        cable=$!
    fi
    for n in 0 1 2; do start "$n"; done
    for n in 0 1 2; do wait_until "node $n" admin "$n" /ready; done
    wait_until "a cluster that may lose a node" admin 0 /safe
}

# SQL: asks Postgres itself.
ask() { psql -XAtq -v ON_ERROR_STOP=1 "$DATABASE_URL" -c "$1"; }

# n: the URL of node n.
through() { echo "postgres://${user}127.0.0.1:${ports[$1]}/$database"; }

# n: starts node n; the first one ever founds the cluster, the others join it.
start() {
    local n=$1 how
    if [ "$n" = 0 ]; then how=(--bootstrap); else how=(--join "127.0.0.1:${reached[0]}"); fi
    "$ripen" --upstream "$DATABASE_URL" --listen "127.0.0.1:${ports[n]}" --admin-listen "127.0.0.1:${admins[n]}" --data-dir "$work/node$n" \
        --cluster-listen "127.0.0.1:${members[n]}" --cluster-advertise "127.0.0.1:${reached[n]}" "${how[@]}" --write-behind "$table" 2>>"$work/node$n.log" &
    pids[n]=$!
}

# n PATH: what the node's admin server answers; fails unless it is 200.
admin() {
    python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())' "http://127.0.0.1:${admins[$1]}$2" 2>/dev/null
}

# The node that leads.
leader() {
    local n
    for n in 0 1 2; do
        if kill -0 "${pids[n]}" 2>/dev/null && admin "$n" /leader >/dev/null; then echo "$n"; return; fi
    done
    return 1
}

# WHAT COMMAND…: waits a minute for the command to succeed, or ends the script.
wait_until() {
    local what=$1
    shift
    patiently 600 "$@" && return
    tail -n 5 "$work"/node*.log >&2
    die "$name: $what did not come"
}

# ACKNOWLEDGED n: whether Postgres, when all is flushed, and node n hold so many increments, no more and no less.
count_increments() {
    psql -XAtq -v ON_ERROR_STOP=1 "$(through "$2")" -c "CALL ripen.flush()"
    local told written
    told=$(psql -XAtq "$(through "$2")" -c "SELECT sum(n) FROM $table")
    written=$(ask "SELECT sum(n) FROM $table")
    if [ "$written" = "$1" ] && [ "$told" = "$1" ]; then
        echo "after CALL ripen.flush(), Postgres holds all $1 acknowledged increments, and node $2, started again, says so, too"
    else
        echo "LOST OR DOUBLED: $1 increments were acknowledged, Postgres holds $written, node $2 says $told"
        return 1
    fi
}
