# shellcheck shell=sh
# Sourced by ./up, ./test and .ci/run: lists what the machine lacks and installs it. POSIX sh, Debian 12 or newer.
#
#   need PROGRAM PACKAGE   notes a package when no such program is there
#   install_needs          installs what was noted, without letting packages start services of their own

needed=

need() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || needed="$needed $2"
}

# Sets php_package: the newest PHP-FPM that the machine has or its package lists offer.
need_php_fpm() {
    for program in /usr/sbin/php-fpm8.*; do
        [ -x "$program" ] && return 0
    done
    needed="$needed php-fpm"
}

need_build_tools() {
    if ! command -v cargo >/dev/null 2>&1; then
        if [ -x "$HOME/.cargo/bin/cargo" ]; then
            PATH="$HOME/.cargo/bin:$PATH"
        else
            echo "error: Rust is missing: install it with rustup, then run this again" >&2
            exit 1
        fi
    fi
    need cc gcc
    need make make
    # zlib-ng, which the edge's proxy library compresses with, is configured by it.
    need cmake cmake
    [ -e /usr/include/stdio.h ] || needed="$needed libc6-dev"
}

install_needs() {
    [ -n "$needed" ] || return 0
    echo "This machine lacks:$needed"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: install these with your package manager, then run this again" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "error: not root. Run this, then try again:" >&2
        echo "  sudo apt-get update && sudo apt-get install --no-install-recommends$needed" >&2
        exit 1
    fi
    echo "Installing them (nothing of them is started) ..."
    # A package's own service would take ports that the platform wants.
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made_policy=1
    fi
    log=$(mktemp)
    failed=
    # Package names hold no blanks: the list is split on purpose.
    # shellcheck disable=SC2086
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $needed; } \
        >"$log" 2>&1 || failed=1
    [ -z "$made_policy" ] || rm -f "$policy"
    if [ -n "$failed" ]; then
        tail -n 15 "$log" >&2
        echo "error: the installation failed; the whole log is $log" >&2
        exit 1
    fi
    rm -f "$log"
}
