#!/bin/sh
# Prints the command line of another server that benchmarks run beside ours, as Debian sid has it. Its packages are unpacked into a
# cache folder and run with their own libraries; nothing is installed.
#
#   infra/peer.sh haproxy|nginx
set -eu

program=${1:-}
case $program in
haproxy | nginx) ;;
*)
    echo "usage: infra/peer.sh haproxy|nginx" >&2
    exit 2
    ;;
esac

cache=${HOSTING_CI_CACHE:-${HOME:-/root}/.cache/hosting-ci}
root=$cache/peers
work=$cache/peers.apt

# apt with lists and a record of installed packages of its own: the machine's are neither read nor written.
apt() {
    apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- \
        -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status" \
        -o "Dir::Cache::Archives=$work/archives" -o "Dir::Cache::pkgcache=$work/packages.bin" \
        -o "Dir::Cache::srcpkgcache=$work/sources.bin" -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 "$@" >&2
}

if [ ! -e "$root/complete" ]; then
    rm -rf "$root" "$work"
    mkdir -p "$root" "$work/lists/partial" "$work/archives/partial"
    : >"$work/status"
    # The mirror that the machine already uses.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
    apt update
    apt -y --download-only install haproxy nginx-light
    for package in "$work"/archives/*.deb; do
        dpkg -x "$package" "$root"
    done
    rm -rf "$work"
    touch "$root/complete"
fi
loader=$(find "$root"/usr/lib/*/ -maxdepth 1 -name 'ld-linux*.so.*' | head -n 1)
echo "$loader --library-path $(dirname "$loader") $root/usr/sbin/$program"
