# Needs Rust, Node 20.19 or later and a C compiler. Start with `make run` and `make test`.
SHELL := /bin/bash
BIN := target/debug
VENV := .venv
GATEWAY := $(BIN)/gateway --backend $(BIN)/backend
LAMBDA_URL := http://127.0.0.1:9000/2015-03-31/functions/websocket-handler/invocations
GATEWAY_TESTS := crates/gateway/tests
# The debug build of the tests: `cargo build` would select other features and recompile tokio and the SDK.
TESTED := cargo test --workspace --no-run
# The programs of the local stack alone, with the features of that build: naming an example makes cargo unify features over
# dev-dependencies too, so `make run` and `make test` share every dependency. `.ci/run` fails when they stop sharing.
PROGRAMS := cargo build --workspace --bin gateway --bin backend --bin session-host --bin websocket-handler --example scripted_function
# The host inside a container is linked statically, so that it runs in any image.
MUSL := $(shell uname -m)-unknown-linux-musl
# Deployment: which sections of samconfig.toml apply (`default` is the dev stack, or `prod`).
ENVIRONMENT := default
SAM := PATH="$(abspath $(VENV)/bin):$$PATH" $(VENV)/bin/sam
# An absolute path, because SAM by default reads and saves samconfig.toml beside the template.
OF_API = --config-file '$(CURDIR)/samconfig.toml' --config-env $(ENVIRONMENT)
OF_BACKEND = $(OF_API)-backend
STACK := $(VENV)/bin/python infra/stack.py
saved = $(shell [ ! -x $(VENV)/bin/sam ] || $(STACK) saved $(1) $(2))
ARCH = $(or $(call saved,$(ENVIRONMENT),Architecture),arm64)
BUILT := .aws-sam/build/Handler/bootstrap
export SAM_CLI_TELEMETRY = 0

.PHONY: help run programs contained watch test soak lint deny fuzz infra types page build function test-function bench bench-compare smoke cost counts microbench clean
.PHONY: deploy deploy-backend url logs destroy bucket bundle publish

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

run: ## Build what is missing, then serve the page, the gateway and the function until Ctrl-C. INSTANCES=3 runs that many backends.
	@$(MAKE) --no-print-directory page & page=$$!; $(MAKE) --no-print-directory programs && wait $$page
	@exec $(GATEWAY) --function $(BIN)/websocket-handler $(if $(INSTANCES),--instances $(INSTANCES))

programs:
	@echo "Building gateway, backend and function (minutes the first time, seconds after a change)."
	@$(PROGRAMS)

contained: ## Build the host that runs inside containers, for SHELL_SANDBOX=container.
	@! command -v rustup >/dev/null || rustup -q target add $(MUSL)
	@cargo build --profile contained --target $(MUSL) -p shellbridge-host --bin session-host
	@install -D target/$(MUSL)/contained/session-host $(BIN)/session-host-static

watch: page programs $(VENV)/bin/cargo-lambda ## Like run, but rebuilds the function on save (`cargo lambda watch`).
	@environment=$$(mktemp -d)/function.env; \
	trap 'kill $$gateway 2>/dev/null; wait; rm -rf $${environment%/*}' EXIT; \
	$(GATEWAY) --lambda-url $(LAMBDA_URL) --print-env $$environment & gateway=$$!; \
	until [ -s $$environment ]; do kill -0 $$gateway 2>/dev/null || exit 1; sleep 0.1; done; \
	PATH="$(abspath $(VENV)/bin):$$PATH" cargo lambda watch -A 127.0.0.1 --concurrency 4 --env-file $$environment

page: crates/web/dist/index.html ## Build the page.

crates/web/dist/index.html: $(shell find crates/web/src crates/web/index.html crates/web/vite*.ts -type f 2>/dev/null) crates/web/node_modules/.package-lock.json
	@echo "Building the page and the browser library."
	@cd crates/web && npm run --silent build
	@touch $@

crates/web/node_modules/.package-lock.json: crates/web/package-lock.json
	@echo "Installing the page's packages (npm ci)."
	@cd crates/web && npm ci --silent --no-audit --no-fund
	@touch $@

types: ## Regenerate the TypeScript types from the Rust ones.
	UPDATE_TYPES=1 cargo test --quiet -p shellbridge-protocol --lib typescript

bench: build ## Run every benchmark next to its floor (under 5 minutes after the build).
	@target/release/bench all $(if $(JSON),--json '$(JSON)')

bench-compare: build ## Compare latency with pushpin and ttyd, where they are installed.
	@target/release/bench compare

smoke: ## Check a stack step by step: URL=wss://… with TOKEN=, or SESSIONS_URL= and ADMIN_TOKEN=; without URL, a local one with TLS.
	@$(if $(URL),cargo build -p shellbridge-bench --bin smoke,$(PROGRAMS) --bin smoke)
	@$(BIN)/smoke $(if $(URL),--url '$(URL)')

build: page ## Build all programs for release, and the function with its small profile.
	cargo build --release --workspace --bins
	cargo build --profile function -p shellbridge-lambda

lint: page $(VENV)/bin/sam ## Check formatting and lints of Rust, TypeScript, templates and policies.
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cd crates/web && npm run lint
	infra/lint.sh $(VENV)
	@if cargo deny --version >/dev/null 2>&1; then $(MAKE) --no-print-directory deny; \
	else echo "not checked: licences and sources of dependencies (cargo install cargo-deny --locked)"; fi

# Advisories come from GitHub. Where it is unreachable, this reports so and does not fail.
# The fuzz targets have their own lock file and use only part of what deny.toml allows.
DENY_FUZZ := --manifest-path fuzz/Cargo.toml
LESS := -A license-not-encountered -A unmatched-skip -A unnecessary-skip
deny:
	cargo deny --locked check -A license-exception-not-encountered licenses bans sources
	cargo deny --locked $(DENY_FUZZ) check $(LESS) licenses bans sources
	@if $$(command -v timeout | sed 's/$$/ 60/') cargo deny fetch db >/dev/null 2>&1; \
	then set -x; cargo deny --offline check advisories && cargo deny --offline $(DENY_FUZZ) check advisories; \
	else echo "not checked: advisories (github.com/RustSec/advisory-db is not reachable)"; fi

fuzz: ## Fuzz the parsers of untrusted input, FUZZ=60 seconds each.
	fuzz/run.sh $${FUZZ:-60}

infra: $(VENV)/bin/sam ## Test the expanded templates, and deploy them to moto (from PyPI, in a virtual environment).
	$(VENV)/bin/python -m pytest -q infra/tests

CHROMIUM = [ -x /usr/bin/chromium ] || (cd crates/web && npx playwright install chromium)

test: page contained ## Run all tests: Rust, TypeScript, and end to end in a real browser.
	@skip=; lacks() { echo "SKIPPED: $$1 ($$2)"; [ -z "$$CI" ] || exit 1; skip="$$skip --skip $$3"; }; \
	$(GATEWAY_TESTS)/autobahn/setup.sh >/dev/null || lacks "the Autobahn cases" "no Python 2.7" "sections_1_to_7 --skip long_frames"; \
	$(GATEWAY_TESTS)/conformance/sdks.sh || lacks "functions in Python and JavaScript" "no Python 3, or no registry" "boto3 --skip sdks::"; \
	has() { for tool; do command -v $$tool >/dev/null || return 1; done; }; root() { [ "$$(id -u)" = 0 ]; }; \
	{ root && has setcap setpriv unshare ipcmk python3; } || lacks "a user per session" "not root, or no setcap, setpriv, unshare, ipcmk and python3" \
		"survivors:: --skip table:: --skip users:: --skip sessions_with_users"; \
	{ root && has podman runc busybox; } || lacks "a container per session" "not root, or no podman, runc and busybox" "contained::"; \
	has redis-server || lacks "several instances" "no redis-server" "redis_ --skip instances:: --skip fleet:: --skip a_fleet_is_measured"; \
	set -x; cargo test --workspace -- $$skip
	@$(CHROMIUM)
	cd crates/web && npm test && npm run e2e

soak: page ## Test the delivery guarantee at SOAK=10 times its usual size: 200,000 keys and 500 MB per run, faults, snapshots after gaps.
	cargo build --release --workspace --bins
	SOAK=$${SOAK:-10} cargo test --release --workspace --test whole -- --nocapture --test-threads=1 promise:: flood::
	PROPTEST_CASES=$$((256 * $${SOAK:-10})) cargo test --release --workspace --lib -- stream:: weather::
	@$(CHROMIUM)
	cd crates/web && SHELLBRIDGE_BIN_DIR=$(CURDIR)/target/release npm run e2e -- gap --repeat-each $${SOAK:-10}

function: $(VENV)/bin/sam $(VENV)/bin/cargo-lambda ## Build the function for deployment with `sam build` (ARCH=x86_64 for Intel).
	@! command -v rustup >/dev/null || rustup -q target add $(if $(filter x86_64,$(ARCH)),x86_64,aarch64)-unknown-linux-gnu
	$(SAM) build $(OF_API) --parameter-overrides Architecture=$(ARCH)

test-function: ## Build the function as for deployment, and test it on this machine with recorded events and under the gateway.
	$(MAKE) function ARCH=$$(uname -m | sed s/aarch64/arm64/)
	$(TESTED)
	@size=$$(stat -c %s $(BUILT)); echo "$$size bytes"; [ $$size -le 6500000 ] || { echo 'the function exceeds 6.5 MB' >&2; exit 1; }
	@export WEBSOCKET_HANDLER=$(abspath $(BUILT)); set -ex -o pipefail; \
	some() { awk '{ print } /[1-9][0-9]* passed/ { some = 1 } END { exit !some }'; }; \
	cargo test --workspace --test all process:: | some; \
	cargo test --workspace --test whole every_byte_arrives_once | some

deploy: function ## Deploy API, function and table; the first run asks for the parameters. ENVIRONMENT=prod selects the other stack.
	$(SAM) deploy $(OF_API) $(if $(call saved,$(ENVIRONMENT),BackendUrl),,--guided)

deploy-backend: $(VENV)/bin/sam ## Deploy the backend's image. BACKEND=ecs-service, ecs-express or apprunner selects the template (first run).
	$(SAM) list stack-outputs $(OF_API) --output json | $(STACK) backend $(ENVIRONMENT) $(BACKEND)
	$(SAM) deploy $(OF_BACKEND) $(if $(call saved,$(ENVIRONMENT)-backend,Image),,--guided)

url: $(VENV)/bin/sam ## Print the URL that clients connect to.
	@$(SAM) list stack-outputs $(OF_API) --output json | $(STACK) output WebSocketUrl

logs: $(VENV)/bin/sam ## Follow the function's log.
	$(SAM) logs $(OF_API)

destroy: $(VENV)/bin/sam ## Delete both stacks, after confirmation. Keeps the table.
	$(SAM) delete $(OF_BACKEND)
	$(SAM) delete $(OF_API)

bundle: bucket function ## For deployment in the console, write function.zip and templates that load it from BUCKET.
	$(STACK) bundle $(BUCKET)
	@echo "Wrote .aws-sam/bundle. Upload function.zip to s3://$(BUCKET), then create a CloudFormation stack from a template."

publish: bucket function ## Publish to the Serverless Application Repository through BUCKET, which it must be able to read. Set your URLs first (README).
	$(SAM) package --s3-bucket $(BUCKET) --output-template-file .aws-sam/packaged.yaml
	$(SAM) publish --template-file .aws-sam/packaged.yaml

bucket:
	@[ -n "$(BUCKET)" ] || { echo "set BUCKET to the name of an S3 bucket" >&2; exit 1; }

cost: page ## Price an hour of simulated lab work on AWS, next to the original design.
	cargo build --release --workspace --bins
	target/release/bench cost

# Programs with symbols get their own target directory, so they do not replace the measured ones.
BUILD := release
SYMBOLS := CARGO_TARGET_DIR=target/symbols CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
COUNTED = target/$(if $(PROFILE),$(if $(filter release,$(BUILD)),symbols/))$(BUILD)

counts: page ## Check instructions per frame against their bounds (BUILD=debug in CI). PROFILE=1 shows hot spots, ACCEPT=1 sets new bounds.
	$(if $(filter release,$(BUILD)),$(if $(findstring symbols,$(COUNTED)),$(SYMBOLS)) cargo build --workspace --bins --release,$(TESTED))
	$(COUNTED)/bench counts --function $(COUNTED)/websocket-handler $(if $(PROFILE),--profile) $(if $(ACCEPT),--accept)

microbench: page ## Measure time and allocations of parsers and state machines (ONLY=name selects some).
	cargo bench -p shellbridge-protocol --bench hot -- $(ONLY)
	cargo bench -p shellbridge-backend --bench screen -- $(ONLY)

$(VENV)/bin/sam: infra/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r infra/requirements.txt
	@touch $@

$(VENV)/bin/cargo-lambda:
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet cargo-lambda

clean: ## Remove all build output.
	rm -rf target $(VENV) .aws-sam crates/web/dist crates/web/node_modules
