# shellcheck shell=sh
# Sourced by ./up, ./test and .ci/run: lists what the machine lacks and installs it. POSIX sh, Debian 12 or newer.
#
#   need PROGRAM PACKAGE   notes a package when no such program is there
#   need_disk MIB WHAT     ends when the disk has less room than the build will take
#   install_needs          installs what was noted, without letting packages start services of their own
#   tool PROGRAM VERSION   builds a tool of cargo's into a cache folder, which is in PATH, once for the machine
#   api_tools              puts the programs that test the API's description into a cache folder, if Python can be used
#   build ARGUMENTS        cargo build, with progress on a terminal only
#
# CARGO_TARGET_DIR is set, so that whoever starts what was built knows where it is.

needed=
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
tools="${HOSTING_CI_CACHE:-${HOME:-/root}/.cache/hosting-ci}/tools"
export PATH="$tools/bin:$PATH"

fail() {
    echo "error: $1" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || needed="$needed $2"
}

# The newest PHP-FPM that the machine has, or that its package lists offer.
need_php_fpm() {
    for program in /usr/sbin/php-fpm8.*; do
        [ -x "$program" ] && return 0
    done
    needed="$needed php-fpm"
}

# A PostgreSQL server's programs; Debian keeps them out of the PATH.
need_postgres() {
    for program in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$program" ] && return 0
    done
    needed="$needed postgresql"
}

need_build_tools() {
    command -v cargo >/dev/null 2>&1 || PATH="${HOME:-/root}/.cargo/bin:$PATH"
    if ! command -v cargo >/dev/null 2>&1; then
        [ -z "${SUDO_USER:-}" ] || fail "root has no Rust: run this without sudo, as $SUDO_USER"
        fail "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
    fi
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    present=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$wanted" "$present" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "Rust is $present, but $wanted is needed: run 'rustup update stable', then run this again"
    need cc gcc
    need make make
    # zlib-ng, which the edge's proxy library compresses with, is configured by it.
    need cmake cmake
    [ -e /usr/include/stdio.h ] || needed="$needed libc6-dev"
    # Cargo fetches over HTTPS.
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ] || needed="$needed ca-certificates"
}

need_disk() {
    mkdir -p "$CARGO_TARGET_DIR"
    free=$(($(df -Pk "$CARGO_TARGET_DIR" | tail -n 1 | tr -s ' ' | cut -d' ' -f4) / 1024))
    # What is built already need not be built again.
    built=$(du -skx "$CARGO_TARGET_DIR" | cut -f1)
    [ "$((free + built / 1024))" -ge "$1" ] ||
        fail "$2 takes $1 MiB in $CARGO_TARGET_DIR, but $free MiB are free: free some, or set CARGO_TARGET_DIR to a folder on another disk"
}

install_needs() {
    [ -n "$needed" ] || return 0
    echo "This machine lacks:$needed"
    command -v apt-get >/dev/null 2>&1 ||
        fail "install these with your package manager, then run this again"
    if [ "$(id -u)" != 0 ]; then
        echo "error: not root. Run this, then try again:" >&2
        echo "  sudo apt-get update && sudo apt-get install --no-install-recommends$needed" >&2
        exit 1
    fi
    echo "Installing them (nothing of them is started) ..."
    log=$(mktemp)
    if ! (apt_install) >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        if grep -qE 'Temporary failure resolving|Could not resolve|Could not connect|Failed to fetch' "$log"; then
            echo "error: the package servers cannot be reached: mend the network, the proxy or /etc/apt, then run this again" >&2
        fi
        fail "the installation failed; the whole log is $log"
    fi
    rm -f "$log"
}

# In a shell of its own, whose end cleans up whatever ends it.
apt_install() {
    # A package's own service would take ports that the platform wants.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # A fresh machine may be installing its updates just now.
    set -- -o DPkg::Lock::Timeout=300
    apt-get "$@" update || echo "going on with the package lists that are there"
    # Package names hold no blanks: the list is split on purpose.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get "$@" install -y --no-install-recommends $needed
}

tool() {
    command -v "$1" >/dev/null 2>&1 && return 0
    echo "Building $1 into $tools ..."
    cargo install --quiet --locked --root "$tools" --target-dir "$tools/target" "$1@$2" ||
        fail "$1 cannot be built: see above"
    rm -rf "$tools/target"
}

# Whatever is missing here, the tests that need it say that they were skipped.
api_tools() {
    api="$tools/api-tools"
    wanted="schemathesis==4.32.5 openapi-python-client==0.29.1"
    [ "$(cat "$api/installed" 2>/dev/null)" != "$wanted" ] || return 0
    echo "Installing schemathesis and openapi-python-client into $api ..."
    rm -rf "$api"
    # Package names hold no blanks: the list is split on purpose.
    # shellcheck disable=SC2086
    if python3 -m venv "$api" >/dev/null 2>&1 && "$api/bin/pip" install -q $wanted >/dev/null 2>&1; then
        echo "$wanted" >"$api/installed"
    else
        echo "going on without them: Python with venv, and a package index, are needed"
    fi
}

build() {
    if [ -t 2 ]; then
        cargo build --locked "$@"
    else
        cargo build --locked --quiet "$@"
    fi
}
