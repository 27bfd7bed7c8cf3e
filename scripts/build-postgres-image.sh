#!/usr/bin/env bash
# Builds the test image ripen-postgres:<major> from Debian packages, with the mirror that apt is configured for. No image registry is asked.
# Does nothing when the image is there; prints the image's name. Needs root and a Docker engine; takes about a minute.
set -eu
. "$(dirname "$0")/lib.sh"

docker info >/dev/null 2>&1 || die "image: no Docker engine answers"
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
package=$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p' | head -n 1)
[ -n "$package" ] || die "image: apt knows no package postgresql"
major=${package#postgresql-}
# Part of the tag, so that a changed recipe makes a new image.
recipe=$(cat "$root_dir/scripts/build-postgres-image.sh" "$root_dir/scripts/image/start-postgres" | cksum | cut -d ' ' -f 1)
image=ripen-postgres:$major

if [ "$(docker image inspect -f '{{index .Config.Labels "ripen.recipe"}}' "$image" 2>/dev/null)" = "$recipe" ]; then
    echo "$image"
    exit 0
fi
command -v debootstrap >/dev/null || die "image: debootstrap is not installed"

mirror=$(apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages' | sed -n "s/|$release|main\$//p" | head -n 1)
[ -n "$mirror" ] || die "image: apt has no mirror of $release main"

work=$(as_root mktemp -d /var/tmp/ripen-image.XXXXXX)
trap 'as_root rm -rf "$work"' EXIT
say "image: building $image from $release"
as_root debootstrap --variant=minbase --include="$package" "$release" "$work/root" "$mirror" >"/tmp/ripen-image.$$.log" 2>&1 ||
    { tail -n 20 "/tmp/ripen-image.$$.log" >&2; die "image: debootstrap failed"; }
rm -f "/tmp/ripen-image.$$.log"

# What a server does not need at run time.
as_root sh -c "cd '$work/root' && rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc/* usr/share/man/* usr/share/locale/* var/lib/postgresql/* etc/postgresql/*"
as_root install -m 0755 "$root_dir/scripts/image/start-postgres" "$work/root/usr/local/bin/start-postgres"
as_root install -d -o "$(as_root chroot "$work/root" id -u postgres)" -m 0700 "$work/root/data"
# The cluster is made here once; each container's volume begins as a copy of it.
as_root chroot "$work/root" su postgres -c "/usr/lib/postgresql/$major/bin/initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 /data" >/dev/null

as_root tar -C "$work/root" --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* -c . | docker import \
    --change 'USER postgres' \
    --change 'VOLUME /data' \
    --change 'ENTRYPOINT ["/usr/local/bin/start-postgres"]' \
    --change "LABEL ripen.recipe=$recipe" \
    - "$image" >/dev/null
echo "$image"
