#!/bin/sh
# Prints the command line of another server that benchmarks run beside ours. What the machine lacks is fetched from its own
# package lists and unpacked into a cache folder; nothing is installed.
#
#   infra/peer.sh haproxy
set -eu
cache=${HOSTING_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/hosting-peers}

unpacked() {
    program=$1
    shift
    if [ ! -x "$cache/usr/sbin/$program" ]; then
        mkdir -p "$cache"
        cd "$cache"
        apt-get download "$@" >&2
        for package in ./*.deb; do
            dpkg -x "$package" .
            rm -f "$package"
        done
    fi
    libraries=$(find "$cache/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    echo "env LD_LIBRARY_PATH=$libraries $cache/usr/sbin/$program"
}

case ${1:-} in
haproxy)
    command -v haproxy || unpacked haproxy haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
    ;;
*)
    echo "usage: infra/peer.sh haproxy" >&2
    exit 2
    ;;
esac
