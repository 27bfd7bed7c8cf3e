#!/usr/bin/env bash
# Installs the Debian packages that building, testing and the demo need, when rights allow; else says which. Does nothing when all are there.
# Usage: scripts/setup.sh build|run|test|bench
set -eu
. "$(dirname "$0")/lib.sh"
purpose=${1:-test}

if ! command -v apt-get >/dev/null; then
    say "setup: this is not Debian; needed are libclang, a C compiler, and a PostgreSQL server with pgbench (bench: pgbouncer)"
    exit 0
fi

# The newest versioned package that apt knows, such as libclang1-14.
newest() { apt-cache pkgnames "$1" | grep -E "^$1[0-9.]+$2\$" | sort -V | tail -n 1; }

# The version that an unversioned package stands for, so that library and headers agree.
clang_version() { apt-cache depends libclang-dev 2>/dev/null | sed -n 's/.*Depends: libclang-\([0-9]*\)-dev.*/\1/p' | head -n 1; }

installed() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

needed() {
    local clang
    # Any libclang with its headers will do.
    if ! ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang-*.so* >/dev/null 2>&1 || ! ls -d /usr/lib/llvm-*/lib/clang/*/include >/dev/null 2>&1; then
        clang=$(clang_version)
        echo "libclang1-${clang:-14} libclang-common-${clang:-14}-dev"
    fi
    command -v cc >/dev/null || echo "gcc libc6-dev"
    if [ "$purpose" != build ]; then
        ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo "postgresql"
        command -v psql >/dev/null || echo "postgresql-client"
        command -v python3 >/dev/null || echo "python3"
    fi
    if [ "$purpose" = test ]; then
        command -v javac >/dev/null || echo "default-jdk-headless"
        command -v node >/dev/null || echo "nodejs"
        # Nodes of a cluster get networks of their own, which can be cut.
        command -v ip >/dev/null || [ -x /usr/sbin/ip ] || [ -x /sbin/ip ] || echo "iproute2"
        if docker info >/dev/null 2>&1; then command -v debootstrap >/dev/null || echo "debootstrap"; fi
    fi
    if [ "$purpose" = bench ]; then command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || echo "pgbouncer"; fi
}

install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

if [ -z "$(ls -A /var/lib/apt/lists 2>/dev/null | grep -v -e lock -e partial)" ]; then
    as_root apt-get update >&2 || true
fi
read -r -d '' -a missing <<<"$(needed)" || true
[ "${#missing[@]}" -gt 0 ] || exit 0
say "setup: installing ${missing[*]}"
if install "${missing[@]}"; then exit 0; fi
# A stale package list names files that are gone.
if as_root apt-get update >&2 && install "${missing[@]}"; then exit 0; fi

# The drivers of other languages are a bonus: their tests say that they were left out. The rest is not.
must=()
for package in "${missing[@]}"; do
    case $package in
    default-jdk-headless | nodejs | debootstrap | iproute2) install "$package" || say "setup: without $package some tests are left out" ;;
    *) must+=("$package") ;;
    esac
done
if [ "${#must[@]}" -gt 0 ]; then
    install "${must[@]}" || die "setup: please install, as root: apt-get install ${must[*]}"
fi
