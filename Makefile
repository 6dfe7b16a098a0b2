# The two commands: `make run` and `make test`. The others are parts of them, or longer forms.
.PHONY: run test check console tools verify bench chaos monkey soak stages profile audit watch clean

CARGO ?= cargo
TOOLS := $(CURDIR)/target/tools

# Builds, starts the server with a built-in demo stream, and prints the page that plays it.
run: console
	$(CARGO) run --release --quiet -- demo

# Everything CI runs. Installs what the tests need. Budget: 35 minutes on two cores from a cold cache.
test:
	@scripts/test

# What a change must pass before anything is run: format, lints, docs, licences.
check: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	# Advisories need their database from the network: `cargo deny check advisories` where there is one.
	$(TOOLS)/bin/cargo-deny --log-level error check licenses bans sources

# The page, embedded in the binary by the build. Without npm the server works and its page says what is missing.
console:
	@if command -v npm >/dev/null; then \
	  cd console && npm ci --silent --no-audit --no-fund && npm run --silent build; \
	else echo "npm is missing: building without the page"; fi

# Programs the tests use, installed where they are missing.
tools:
	@scripts/tools

# The long forms: more property cases, and every parser fuzzed for MINUTES each (default 1).
verify: test
	PROPTEST_CASES=20000 $(CARGO) test --workspace --lib --quiet
	@scripts/fuzz $(or $(MINUTES),1)

# Costs beside nginx-rtmp, about 25 minutes; writes docs/benchmarks.md. Needs root: each run has a file system of its own.
bench: tools
	@scripts/tools nginx-light libnginx-mod-rtmp wrk e2fsprogs
	$(CARGO) build --release --quiet -p steadycast -p chaos
	target/release/chaos bench

# Every fault of storage, encoders, actors and processes, judged: about 70 minutes; writes docs/chaos-report.md. Goes on
# where a run of the same build was interrupted; `chaos matrix --anew` does not. Needs root. SEED=N for other moments.
chaos: tools
	$(CARGO) build --release --quiet -p steadycast -p chaos
	target/release/chaos matrix --seed $(or $(SEED),1) --report docs/chaos-report.md --json target/chaos/report.json

# Faults of all kinds at random, for MINUTES. Needs root.
monkey: tools
	$(CARGO) build --release --quiet -p steadycast -p chaos
	target/release/chaos monkey --seed $(or $(SEED),1) --minutes $(or $(MINUTES),10)

# The same for an hour with 200 streams, the worker never killed: its memory must not grow. Writes docs/soak.md.
soak: tools
	$(CARGO) build --release --quiet -p steadycast -p chaos
	target/release/chaos monkey --soak --seed $(or $(SEED),1) --minutes $(or $(MINUTES),60) --streams 200 --report docs/soak.md

# Instructions and allocations of each stage, whatever else the machine does; writes docs/stages.md.
stages: tools
	@scripts/tools valgrind
	@scripts/stages

# Where the time goes with 200 publishers (or STREAMS): a flame graph in target/profile.
profile: tools
	@scripts/tools linux-perf e2fsprogs
	@scripts/profile $(or $(STREAMS),200)

# Twenty different streams followed by the auditor for ten minutes (or SECONDS).
audit: tools
	$(CARGO) build --release --quiet -p steadycast -p chaos
	target/release/chaos punctual -- scripts/audit $(or $(SECONDS),600)

# Pictures counted, and hls.js and Shaka measured in Chromium, for ten minutes (or SECONDS).
watch: tools
	$(CARGO) build --release --quiet -p steadycast -p chaos
	target/release/chaos punctual -- scripts/watch $(or $(SECONDS),600)

clean:
	$(CARGO) clean
