# The usual errands. `make demo` and `make test` need Rust and a C compiler, and see to the rest.

.PHONY: demo test lint bench loadtest build packages help

help:
	@echo "make demo      build and try it: the gateway in front of example services"
	@echo "make test      all tests"
	@echo "make lint      formatting, clippy, documentation"
	@echo "make bench     micro-benchmarks"
	@echo "make loadtest  requests per second through the release build (needs wrk)"
	@echo "make build     target/release/portcullis"

demo: packages
	cargo run --release -p portcullis -- demo

test: packages
	cargo test --workspace

build: packages
	cargo build --release -p portcullis

lint: packages
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench: packages
	cargo bench --workspace

loadtest: build
	loadtest/run

# BoringSSL is built from source: that takes cmake and libclang.
packages:
	@.ci/packages
