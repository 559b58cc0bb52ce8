# Needs Rust, Node 20 or later and a C compiler. `make run` and `make test` are all a newcomer has to know.
SHELL := /bin/bash
BIN := target/debug
VENV := .venv
GATEWAY := $(BIN)/gateway --backend $(BIN)/backend
export SAM_CLI_TELEMETRY = 0

.PHONY: help run watch test lint types page build clean

help: ## Say what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

run: page ## Build what is missing; serve the page, the gateway and the function until Ctrl-C.
	@cargo build --quiet --workspace --bins
	@exec $(GATEWAY) --function $(BIN)/websocket-handler

watch: page $(VENV)/bin/cargo-lambda ## The same, with the function under `cargo lambda watch`.
	@cargo build --quiet --workspace --bins
	@infra/watch.sh $(abspath $(VENV)) $(GATEWAY)

page: crates/web/dist/index.html ## Build the page.

crates/web/dist/index.html: $(shell find crates/web/src crates/web/index.html crates/web/vite*.ts -type f 2>/dev/null) crates/web/node_modules/.package-lock.json
	@cd crates/web && npm run --silent build
	@touch $@

crates/web/node_modules/.package-lock.json: crates/web/package-lock.json
	@cd crates/web && npm ci --silent --no-audit --no-fund
	@touch $@

types: ## Write the TypeScript types anew from the Rust ones.
	UPDATE_TYPES=1 cargo test --quiet -p shellbridge-protocol --test typescript

build: page ## Build everything for release; the function with its own, small profile.
	cargo build --release --workspace --bins
	cargo build --profile lambda -p shellbridge-lambda

lint: page ## Formatting and every warning, in Rust and TypeScript.
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cd crates/web && npm run lint

test: page ## All tests: Rust, TypeScript, and the whole way in a real browser.
	cargo build --workspace --bins
	cargo nextest run --workspace
	cd crates/web && npm test && npm run e2e

$(VENV)/bin/cargo-lambda:
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet cargo-lambda

clean: ## Remove everything that was made.
	rm -rf target $(VENV) .aws-sam crates/web/dist crates/web/node_modules
