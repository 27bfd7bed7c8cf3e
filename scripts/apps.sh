#!/usr/bin/env bash
# Real programs, unchanged, first against a scratch Postgres, then through Ripen in front of it: whether they say the same, and which share of their statements Postgres had to carry out.
# Usage: scripts/apps.sh [ROUNDS]   (docs/COMPATIBILITY.md has what came out)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
rounds=${1:-50}
ripen=${RIPEN:-$root_dir/target/release/ripen}
[ -x "$ripen" ] || die "apps: build it first: make build"
bin=$(postgres_bin) || die "apps: no PostgreSQL programs; apt-get install postgresql"
PATH=$bin:$PATH
work=$root_dir/data/apps
venv=$root_dir/target/apps-venv
ripen_pid= postgres_pid=

trap finish EXIT

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c "import django, psycopg, sqlalchemy" 2>/dev/null; then
    python3 -m venv "$venv" || die "apps: no venv; apt-get install python3-venv"
    "$venv/bin/pip" -q install "django>=5,<6" "sqlalchemy>=2,<3" "psycopg[binary]>=3,<4" || die "apps: the programs' libraries cannot be fetched"
fi
scripts/drivers.sh
drivers=$root_dir/target/drivers
jars=$(ls "$drivers"/usr/share/java/{postgresql,scram-client,scram-common,stringprep,saslprep}.jar 2>/dev/null | paste -sd :)

# PROGRAM WORDS…: runs one of tests/apps.
program() {
    local name=$1
    shift
    case $name in
        *.py) "$venv/bin/python" "tests/apps/$name" "$@" ;;
        *.js) NODE_PATH=$drivers/usr/share/nodejs node "tests/apps/$name" "$@" ;;
        *.java) java -cp "$jars" "tests/apps/$name" "$@" ;;
    esac
}

# PROGRAM: whether what it is run by is there.
has() {
    case $1 in
        *.py) true ;;
        *.js) command -v node >/dev/null && [ -d "$drivers/usr/share/nodejs/pg" ] ;;
        *.java) command -v javac >/dev/null && [ -n "$jars" ] ;;
    esac
}

rm -rf "$work"
mkdir -p "$work"
start_scratch
server=${DATABASE_URL%/*}

for name in django_shop.py sqlalchemy_counters.py node_presence.js JdbcTelemetry.java; do
    app=$(tr '[:upper:]' '[:lower:]' <<<"${name%.*}")
    has "$name" || { say "$app: left out, since what it is run by is not there"; continue; }
    for side in plain "$app"; do psql -XAtqc "CREATE DATABASE $side" "$DATABASE_URL"; done
    DATABASE_URL=$server/plain program "$name" prepare
    DATABASE_URL=$server/$app program "$name" prepare
    port=$(free_port) admin=$(free_port)
    "$ripen" --upstream "$server/$app" --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$admin" --data-dir "$work/$app" --write-behind "public.*" 2>"$work/$app.log" &
    ripen_pid=$!
    patiently 300 curl -fsS "http://127.0.0.1:$admin/ready" || die "apps: Ripen is not ready; see $work/$app.log"
    DATABASE_URL=$server/plain program "$name" run "$rounds" >"$work/$app.plain"
    counters "$admin" >"$work/$app.before"
    DATABASE_URL=postgres://postgres@127.0.0.1:$port/$app program "$name" run "$rounds" >"$work/$app.proxied"
    counters "$admin" >"$work/$app.after"
    cmp "$work/$app.plain" "$work/$app.proxied" || die "apps: $app says something else through Ripen"
    say "$app: the same as on Postgres ($(cat "$work/$app.plain"))"
    share "$work/$app.before" "$work/$app.after"
    kill -TERM "$ripen_pid" && wait "$ripen_pid" || true
    ripen_pid=
    psql -XAtqc "DROP DATABASE plain WITH (FORCE)" "$DATABASE_URL"
done
