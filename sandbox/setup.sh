#!/bin/sh
# Looks for what demo and tests need: a Rust toolchain, redis-server, Postgres' initdb and postgres. Installs the two servers
# where it may, and otherwise prints the one command to run. Their system services are never used: the sandbox starts
# private servers on free ports. `--for-tests` looks for a browser too, in which some tests open a page.
set -eu
for_tests=${1:-}

say() { printf '%s\n' "$*" >&2; }

is_program() { [ -f "$1" ] && [ -x "$1" ]; }
# What a variable says is not second-guessed: the sandbox looks nowhere else either.
has_redis() {
    if [ -n "${DOORBUSTER_REDIS_BIN:-}" ]; then
        is_program "$DOORBUSTER_REDIS_BIN" || is_program "$DOORBUSTER_REDIS_BIN/redis-server"
        return
    fi
    command -v redis-server >/dev/null 2>&1 && return 0
    for folder in /opt/homebrew/opt/redis*/bin /usr/local/opt/redis*/bin; do
        is_program "$folder/redis-server" && return 0
    done
    return 1
}

has_postgres() {
    if [ -n "${DOORBUSTER_POSTGRES_BIN:-}" ]; then
        folder=$DOORBUSTER_POSTGRES_BIN
        [ -d "$folder" ] || folder=$(dirname "$folder")
        is_program "$folder/postgres" && is_program "$folder/initdb"
        return
    fi
    for folder in $(printf '%s' "$PATH" | tr ':' ' ') /usr/lib/postgresql/*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && return 0
    done
    return 1
}

has_chromium() {
    [ "$for_tests" = --for-tests ] || return 0
    if [ -n "${DOORBUSTER_CHROMIUM_BIN:-}" ]; then
        is_program "$DOORBUSTER_CHROMIUM_BIN" || is_program "$DOORBUSTER_CHROMIUM_BIN/chromium"
        return
    fi
    command -v chromium >/dev/null 2>&1
}

command -v cargo >/dev/null 2>&1 || { say "Rust is missing: install it from https://rustup.rs and run this again."; exit 1; }
command -v cc >/dev/null 2>&1 || { say "A C compiler is missing: install gcc (apt-get install build-essential, or xcode-select --install)."; exit 1; }

# Nothing that is installed would mend a variable that leads nowhere.
if [ -n "${DOORBUSTER_REDIS_BIN:-}" ] && ! has_redis; then
    say "There is no redis-server at $DOORBUSTER_REDIS_BIN, where DOORBUSTER_REDIS_BIN points: correct the variable or unset it."
    exit 1
fi
if [ -n "${DOORBUSTER_POSTGRES_BIN:-}" ] && ! has_postgres; then
    say "There are no postgres and initdb at $DOORBUSTER_POSTGRES_BIN, where DOORBUSTER_POSTGRES_BIN points:"
    say "correct the variable or unset it."
    exit 1
fi
if [ -n "${DOORBUSTER_CHROMIUM_BIN:-}" ] && ! has_chromium; then
    say "There is no browser at $DOORBUSTER_CHROMIUM_BIN, where DOORBUSTER_CHROMIUM_BIN points:"
    say "correct the variable or unset it."
    exit 1
fi

missing=""
has_redis || missing="redis"
has_postgres || missing="${missing:+$missing and }postgres"
has_chromium || missing="${missing:+$missing and }chromium"
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null 2>&1; then
    packages=""
    case "$missing" in *redis*) packages="redis-server" ;; esac
    case "$missing" in *postgres*) packages="${packages:+$packages }postgresql" ;; esac
    case "$missing" in *chromium*) packages="${packages:+$packages }chromium" ;; esac
    install="apt-get install -y --no-install-recommends $packages"
    if [ "$(id -u)" = 0 ]; then root=""; elif sudo -n true 2>/dev/null; then root="sudo -n"; else
        say "Missing: $missing. Run this, then again what you ran:"
        say "    sudo apt-get update && sudo $install"
        exit 1
    fi
    say "Installing $missing ($packages) with apt-get. Only the programs are used; their system services never are."
    $root apt-get update -qq
    # shellcheck disable=SC2086 # the packages are words on purpose
    DEBIAN_FRONTEND=noninteractive $root $install >/dev/null
elif command -v brew >/dev/null 2>&1; then
    packages=""
    case "$missing" in *redis*) packages="redis" ;; esac
    case "$missing" in *postgres*) packages="${packages:+$packages }postgresql@17" ;; esac
    case "$missing" in *chromium*) packages="${packages:+$packages }chromium" ;; esac
    say "Installing $packages with brew. Only the programs are used; no service is started."
    # shellcheck disable=SC2086
    brew install $packages
else
    say "Missing: $missing. Install redis-server, PostgreSQL and, for the tests, chromium with your package manager, or name"
    say "the programs in DOORBUSTER_REDIS_BIN, DOORBUSTER_POSTGRES_BIN and DOORBUSTER_CHROMIUM_BIN, and run this again."
    exit 1
fi

has_redis && has_postgres && has_chromium || {
    say "The packages were installed, but one of $missing is still not found."
    exit 1
}
