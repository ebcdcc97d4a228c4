#!/bin/sh
# Looks for what demo and tests need: a Rust toolchain, redis-server, Postgres' initdb and postgres. Installs the two servers
# where it may, and otherwise prints the one command to run. Their system services are never used: the sandbox starts
# private servers on free ports.
set -eu

say() { printf '%s\n' "$*" >&2; }

has_redis() { [ -x "${DOORBUSTER_REDIS_BIN:-}" ] || command -v redis-server >/dev/null 2>&1 || [ -x /usr/bin/redis-server ]; }

has_postgres() {
    [ -n "${DOORBUSTER_POSTGRES_BIN:-}" ] && return 0
    for folder in $(printf '%s' "$PATH" | tr ':' ' ') /usr/lib/postgresql/*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && return 0
    done
    return 1
}

command -v cargo >/dev/null 2>&1 || { say "Rust is missing: install it from https://rustup.rs and run this again."; exit 1; }
command -v cc >/dev/null 2>&1 || { say "A C compiler is missing: install gcc (apt-get install build-essential, or xcode-select --install)."; exit 1; }

missing=""
has_redis || missing="redis"
has_postgres || missing="$missing postgres"
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null 2>&1; then
    packages=""
    case "$missing" in *redis*) packages="redis-server" ;; esac
    case "$missing" in *postgres*) packages="$packages postgresql" ;; esac
    install="apt-get install -y --no-install-recommends $packages"
    if [ "$(id -u)" = 0 ]; then root=""; elif sudo -n true 2>/dev/null; then root="sudo -n"; else
        say "Missing: $missing. Run this, then again what you ran:"
        say "    sudo apt-get update && sudo $install"
        exit 1
    fi
    say "Installing$missing ($packages) with apt-get. Only the programs are used; their system services never are."
    $root apt-get update -qq
    # shellcheck disable=SC2086 # the packages are words on purpose
    DEBIAN_FRONTEND=noninteractive $root $install >/dev/null
elif command -v brew >/dev/null 2>&1; then
    packages=""
    case "$missing" in *redis*) packages="redis" ;; esac
    case "$missing" in *postgres*) packages="$packages postgresql@17" ;; esac
    say "Installing $packages with brew. Only the programs are used; no service is started."
    # shellcheck disable=SC2086
    brew install $packages
else
    say "Missing: $missing. Install redis-server and PostgreSQL with your package manager, or name the programs in"
    say "DOORBUSTER_REDIS_BIN and DOORBUSTER_POSTGRES_BIN, and run this again."
    exit 1
fi

has_redis && has_postgres || { say "The packages were installed, but redis-server or postgres is still not found."; exit 1; }
