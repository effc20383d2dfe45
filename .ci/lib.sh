# shellcheck shell=bash
# What ./dev, ./test and .ci/run share: where the cache is, and how a missing tool gets onto the machine.
# Sourced, never run. It knows nothing of the project's own commands.

# nginx and etcd live in sbin, which an ordinary user's PATH leaves out; rustup's default home is not always on it.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export PATH

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Keys of what is built to be tested are drawn from the operating system's generator alone. The library mixes in jitter of the
# processor besides: some 20 ms of CPU as a process starts, half of what a command costs that a test runs. What is released
# keeps it.
built_for_tests() { export AWS_LC_SYS_NO_JITTER_ENTROPY=1; }

# The directory for what outlives a checkout. Prints nothing when there is no place that can be written.
cache_dir() {
    local base="${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}"
    [ -n "$base" ] || return 0
    if mkdir -p "$base/portcullis" 2>/dev/null && [ -w "$base/portcullis" ]; then
        printf '%s\n' "$base/portcullis"
    fi
}

# Has the tests make their files apart from those that earlier runs deleted: for minutes ext4 passes over each inode that was
# freed, one by one, whenever a file is made near it, which then costs tens of times what it should.
files_apart() {
    local cache place
    cache="$(cache_dir)"
    if [ -n "${TMPDIR:-}" ] || [ -z "$cache" ] || [ "$(stat -f -c %T /tmp 2>/dev/null)" != ext2/ext3 ]; then
        return 0
    fi
    place="$cache/tmp"
    # Some files there are sockets, whose paths are short.
    [ "${#place}" -le 60 ] || return 0
    mkdir -p "$place" && chattr +T "$place" 2>/dev/null || return 0
    # What runs that were killed have left.
    find "$place" -mindepth 1 -maxdepth 1 -mmin +300 -exec rm -rf {} + 2>/dev/null || true
    export TMPDIR="$place"
}

# Runs a command as root, or returns 1 when that is not possible without asking anybody.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# Installs Debian packages. Their services stay down: a test's nginx must not take port 80 of the machine.
apt_install() (
    have apt-get || exit 1
    as_root true || exit 1
    guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        trap 'as_root rm -f "$guard"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
        as_root chmod 755 "$guard"
    fi
    install() {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 </dev/null
    }
    say "installing: $*"
    # The first try fails on a machine whose package lists are empty or old.
    install "$@" || { as_root apt-get update -qq >&2 </dev/null && install "$@"; }
)

need_rust() {
    have cargo || fail "Rust is missing: install it from https://rustup.rs, then run this again."
    have cc || have gcc || have clang ||
        fail "A C compiler is missing (cc, gcc or clang): on Debian and Ubuntu 'apt-get install build-essential'."
}

# The compression library under the proxy is built by cmake, which itself needs make or ninja.
need_cmake() {
    have_cmake && return 0
    local cache wheel
    cache="$(cache_dir)"
    wheel="$cache/cmake/bin"
    if [ -n "$cache" ] && [ -x "$wheel/cmake" ] && use_wheel "$wheel"; then
        return 0
    fi
    apt_install cmake make && have_cmake && return 0
    if [ -n "$cache" ] && have python3; then
        say "installing: cmake and ninja (Python wheels, into $cache/cmake)"
        if python3 -m venv "$cache/cmake" >&2 && "$wheel/python3" -m pip install --quiet cmake ninja >&2 && use_wheel "$wheel"; then
            return 0
        fi
    fi
    fail "cmake and make are missing and could not be installed from here. As root: 'apt-get install cmake make' (Debian, Ubuntu)," \
        "'dnf install cmake make' (Fedora), 'apk add cmake make' (Alpine), 'brew install cmake' (macOS). Then run this again."
}

have_cmake() { have cmake && { have make || have ninja; }; }

use_wheel() {
    PATH="$1:$PATH"
    have make || export CMAKE_GENERATOR=Ninja
    have_cmake
}

# need_tools COMMAND:PACKAGE…  installs the Debian packages of the commands that are not there.
need_tools() {
    local pair missing=() packages=()
    for pair in "$@"; do
        have "${pair%%:*}" || packages+=("${pair#*:}")
    done
    [ "${#packages[@]}" = 0 ] && return 0
    apt_install "${packages[@]}" || true
    for pair in "$@"; do
        have "${pair%%:*}" || missing+=("${pair%%:*} (Debian package ${pair#*:})")
    done
    [ "${#missing[@]}" = 0 ] && return 0
    say "The tests drive these programs, which are missing and could not be installed from here:"
    say "$(printf '  %s\n' "${missing[@]}")"
    fail "Install them, then run this again."
}

# Clients and servers that the tests drive and that come from other registries: undici, oidc-provider (npm), websockets,
# grpcio and schemathesis (PyPI), kept where builds are kept; Go's packages for transparency logs (Debian).
need_clients() {
    local home
    home="$(cache_dir)"
    home="${home:-$PWD/target}/clients"
    export PORTCULLIS_CLIENTS="$home"
    mkdir -p "$home"
    have node || apt_install nodejs npm || true
    have node && have npm || fail "The tests drive Node.js, which is missing and could not be installed from here."
    if [ ! -e /usr/share/gocode/src/golang.org/x/mod/sumdb/tlog ]; then
        apt_install golang-golang-x-mod-dev ||
            fail "Go's packages for transparency logs could not be installed: apt-get install golang-golang-x-mod-dev"
    fi
    if [ ! -e "$home/node_modules/undici/package.json" ] || [ ! -e "$home/node_modules/oidc-provider/package.json" ]; then
        say "installing: undici and oidc-provider (into $home)"
        (cd "$home" && npm install --silent --no-audit --no-fund --ignore-scripts undici@6.21.1 oidc-provider@9.13.3 >&2) ||
            fail "clients could not be installed: npm install undici@6.21.1 oidc-provider@9.13.3"
    fi
    if ! "$home/venv/bin/python" -c 'import websockets, grpc, schemathesis, moto.server' >/dev/null 2>&1; then
        say "installing: websockets, grpcio, schemathesis and moto (into $home)"
        { python3 -m venv "$home/venv" || { apt_install python3-venv && python3 -m venv "$home/venv"; }; } >&2 &&
            "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check websockets==13.1 grpcio==1.85.3 schemathesis==4.32.5 'moto[server]==5.2.5' >&2 ||
            fail "clients could not be installed: pip install websockets==13.1 grpcio==1.85.3 schemathesis==4.32.5 'moto[server]==5.2.5'"
    fi
}
