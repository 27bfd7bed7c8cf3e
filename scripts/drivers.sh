#!/usr/bin/env bash
# Fetches the drivers of other languages from the Debian mirror that apt is configured for and unpacks them under target/drivers; installs nothing and needs no rights.
# Does nothing for those that are there. Each that cannot be fetched is named; its test says that it was left out.
set -eu
. "$(dirname "$0")/lib.sh"
drivers=$root_dir/target/drivers
mkdir -p "$drivers/debs"
chmod 0777 "$drivers/debs"

for package in python3-psycopg python3-asyncpg python3-typing-extensions node-pg node-split2 libpostgresql-jdbc-java libscram-java libstringprep-java; do
    [ ! -e "$drivers/$package.done" ] || continue
    if (cd "$drivers/debs" && apt-get download -o APT::Sandbox::User=root "$package" >/dev/null 2>&1); then
        dpkg-deb -x "$drivers/debs/$package"_*.deb "$drivers"
        touch "$drivers/$package.done"
    else
        say "drivers: $package cannot be fetched"
    fi
done
