# Where PostgreSQL's own tests come from: Debian's source package of the installed server. Sourced behind lib.sh, never run; wants $bin (the server's programs). Installs nothing.

package=$(dpkg-query -S "$bin/initdb" | cut -d : -f 1)
version=$(dpkg-query -W -f='${source:Version}' "$package")

# The machine's own mirrors, with their sources; lists and downloads go to a folder of our own.
own_apt() {
    mkdir -p "$1/state/lists/partial" "$1/cache/archives/partial"
    apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | grep ' main$' | sort -u >"$1/sources.list"
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | grep ' main$' | sort -u >>"$1/sources.list"
    cat >"$1/apt.conf" <<CONF
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$1/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$1/cache";
APT::Sandbox::User "$(id -un)";
CONF
    APT_CONFIG=$1/apt.conf apt-get -q update >"$1/apt.log" 2>&1 || { cat "$1/apt.log" >&2; die "apt-get update failed"; }
}

# DIR SOURCE|PACKAGE…: downloads them into DIR, which own_apt has prepared; the exact version of what is installed, or the newest of that major when the mirror has it no more.
fetch() {
    local into=$1 what
    shift
    (cd "$into" && export APT_CONFIG=$into/apt.conf
        for what in "$@"; do
            case $what in source) get=(source --download-only) name=$package ;; *) get=(download) name=$what ;; esac
            apt-get "${get[@]}" "$name=$version" || apt-get "${get[@]}" "$name" || exit 1
        done >>apt.log 2>&1) || { cat "$into/apt.log" >&2; die "apt has not all of: $package's $*"; }
}
