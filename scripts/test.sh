#!/usr/bin/env bash
# Checks everything: format, lints, all tests of the workspace. Changes no source. Ends with the sum over all test programs.
# Usage: scripts/test.sh [names of tests, as for cargo test]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root_dir"
scripts/setup.sh test

step() { say "== $*"; }
log=$root_dir/target/test.log
mkdir -p target
: >"$log"

step "format"
cargo fmt --all --check
step "lints"
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

step "what tests need"
if docker info >/dev/null 2>&1; then
    scripts/build-postgres-image.sh || say "test: no image; Postgres runs from installed programs"
else
    say "test: no Docker engine answers; Postgres runs from installed programs"
fi
scripts/drivers.sh

step "tests"
status=0
# A property that fails is made smaller by failing again and again: with a backtrace each time, or without an end, it would take the time of all others.
export RUST_BACKTRACE=0 RUST_LIB_BACKTRACE=0 PROPTEST_MAX_SHRINK_TIME=${PROPTEST_MAX_SHRINK_TIME:-60000}
cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
scripts/count.sh "$log" || status=1
exit "$status"
