#!/usr/bin/env bash
# PostgreSQL's own isolation tests on plain Postgres and through Ripen in front of another database of it; whatever a session is told otherwise is printed, and where somebody waits otherwise.
# They are those of Debian's source package of the installed server; fetched once. Installs nothing.
# Usage: scripts/isolation.sh [NAME …]   only these, of src/test/isolation/specs
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
bin=$(postgres_bin) || die "isolation: no PostgreSQL programs; apt-get install postgresql"
. scripts/source.sh
specs=${ISOLATION_DIR:-/var/tmp/ripen-isolation}/specs-$version

if [ ! -d "$specs" ]; then
    new=$(dirname "$specs")/new
    say "isolation: fetching the source of $package $version"
    rm -rf "$new"
    mkdir -p "$new/specs"
    own_apt "$new"
    fetch "$new" source
    tar -xf "$new"/*.orig.tar.* -C "$new/specs" --strip-components=5 --wildcards '*/src/test/isolation/specs/*.spec'
    mv "$new/specs" "$specs"
    rm -rf "$new"
fi
RIPEN_SPECS=$specs RIPEN_ONLY="$*" TEST_POSTGRES=${TEST_POSTGRES:-local} cargo test --locked -p ripen-tests --test interleavings -- --ignored --nocapture isolation
