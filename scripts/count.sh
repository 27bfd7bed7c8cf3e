#!/usr/bin/env bash
# Sums up all "test result" lines of a cargo test log as one line: "N passed, N failed". Fails when there is a failure, or no test at all.
set -eu
awk '
    /^test result: / { for (i = 1; i <= NF; i++) { if ($i ~ /^passed/) passed += $(i - 1); if ($i ~ /^failed/) failed += $(i - 1) } }
    END { printf "%d passed, %d failed\n", passed, failed; exit (failed > 0 || passed == 0) }
' "$1"
