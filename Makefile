# The two commands: `make run` and `make test`. The others are parts of them, or longer forms.
.PHONY: run test check console tools fuzz-replay acceptance verify bench clean

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

bench:
	@echo "make bench: the benchmarks beside nginx-rtmp are not built yet (see CHANGELOG.md, Known gaps)" >&2; exit 1

clean:
	$(CARGO) clean
