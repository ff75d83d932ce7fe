# Everything the project does, for a machine with the Rust toolchain, Python 3.11 and git: what else is needed is
# fetched, pinned, into .tools.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CARGO ?= cargo
TOOLS := .tools
VENV := $(TOOLS)/venv
PYTHON := $(abspath $(VENV)/bin/python)
COMPOSE_FILE := deploy/docker-compose.yml
OCR := examples/plugins/ocr
WHISPER := examples/plugins/whisper
# The folders of the examples that mypy checks; packages that only a plugin has are not there.
TYPED_EXAMPLES := examples/plugins/echo examples/pages
# Where a tool is, as grange-tools told: $(call tool,uv)
tool = $$(sed -n 's/^$(1)=//p' $(TOOLS)/paths)

.PHONY: help
help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## build, start a farm of one, read real pages with it
	$(CARGO) build --release --locked --bins --workspace --exclude grange-bench
	examples/demo.sh

.PHONY: test
test: test-rust test-python test-ocr lint compose-check nats-check ## everything that can fail

.PHONY: bench
bench: tools ## one JSON document on stdout; SECTION=latency runs a part
	@export GRANGE_NATS_SERVER=$(call tool,nats-server) GRANGE_UV=$(call tool,uv); \
	$(CARGO) build --release --locked --bins --workspace 1>&2; \
	$(CARGO) run --release --locked -q -p grange-bench -- $(SECTION)

SEED ?= 1
SECS ?= 60
PROFILE ?= all
AGENTS ?= 3
BROKERS ?= 1
CHAOS := target/debug/grange-chaos
CHAOS_TOOLS = export GRANGE_NATS_SERVER=$(call tool,nats-server) GRANGE_UV=$(call tool,uv)

.PHONY: chaos
chaos: build tools ## one seeded run under faults: SEED=1 SECS=60 PROFILE=all AGENTS=3 BROKERS=1, or REPLAY=file
	@$(CHAOS_TOOLS); $(CHAOS) --seed $(SEED) --secs $(SECS) --profile $(PROFILE) --agents $(AGENTS) \
	  --brokers $(BROKERS) --shrink 12 $(if $(REPLAY),--replay $(REPLAY))

# Seeds that every change has to pass, and two of this hour.
CHAOS_FIXED := 1 2 3 4
CHAOS_SECS ?= 60

.PHONY: test-chaos
test-chaos: build tools ## 4 fixed and 2 random seeds under faults
	@$(CHAOS_TOOLS); failed=0; for seed in $(CHAOS_FIXED) $$((RANDOM + 100)) $$((RANDOM + 100)); do \
	  echo "chaos seed $$seed"; \
	  $(CHAOS) --seed $$seed --secs $(CHAOS_SECS) --profile all --brokers $$((seed % 3 == 0 ? 3 : 1)) || failed=1; \
	done; exit $$failed

# Each bug of crates/agent/src/planted.rs in an agent of its own build; the harness must catch it within 50 seeds.
PLANTED := IgnoreFence EarlyAck NoDeadline KillOnlyWorker HastyTakeover ForgetCancel LeakEnvironment CrashIsSuccess \
  LoseChunks KeepScratch

.PHONY: chaos-bugs
chaos-bugs: tools ## whether the harness finds the bugs that are planted for it
	$(CARGO) build --locked --target-dir target/planted -p grange-chaos -p grange-fake-nvml -p grange-agent \
	  --features grange-agent/planted-bugs
	@$(CHAOS_TOOLS); failed=0; for bug in $(PLANTED); do \
	  echo "planted bug $$bug"; \
	  GRANGE_PLANTED_BUG=$$bug target/planted/debug/grange-chaos --hunt --seeds 50 --secs 20 --rate 12 || failed=1; \
	done; exit $$failed

.PHONY: build
build: ## all programs, for tests
	$(CARGO) build --locked --workspace --bins

.PHONY: lint
lint: lint-rust lint-python ## formatting, clippy, documentation, ruff, mypy

.PHONY: clean
clean: ## remove what was built and fetched
	$(CARGO) clean
	rm -rf $(TOOLS) demo-out

# The parts

.PHONY: test-rust
test-rust: build tools
	export GRANGE_NATS_SERVER=$(call tool,nats-server) GRANGE_UV=$(call tool,uv) GRANGE_TEST_PYTHON=$(PYTHON); \
	$(CARGO) test --locked --workspace --no-fail-fast

test-rust test-python lint-python: | $(VENV)/ready

.PHONY: test-python
test-python:
	# The worker link's tests run the worker that is written in Rust too.
	$(CARGO) build --release --locked -p echo-rust
	cd worker && $(PYTHON) -m pytest -q
	$(PYTHON) -m unittest discover -s examples/plugins/echo

.PHONY: test-ocr
test-ocr: tools
	$(call plugin-test,$(OCR))

.PHONY: test-whisper
test-whisper: tools ## the tests of the whisper plugin; its environment takes 1.4 GB
	$(call plugin-test,$(WHISPER))

# The tests beside a plugin, in the environment that its manifest asks for.
define plugin-test
python3 tools/plugin_env.py $(call tool,uv) $(1)/plugin.json $(TOOLS)/$(notdir $(1))-env
$(TOOLS)/$(notdir $(1))-env/bin/python -m unittest discover -s $(1)
endef

.PHONY: lint-rust
lint-rust: fmt-check clippy doc

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: doc
doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

.PHONY: lint-python
lint-python:
	$(PYTHON) -m ruff check worker examples tools
	$(PYTHON) -m ruff format --check worker examples tools
	cd worker && $(PYTHON) -m mypy
	for folder in $(TYPED_EXAMPLES); do (cd $$folder && MYPYPATH=$(CURDIR)/worker $(PYTHON) -m mypy --strict --ignore-missing-imports .); done
	$(PYTHON) -m mypy --strict tools

# The compose client of this machine, else the pinned one (x86_64). None of them needs an engine for this.
.PHONY: compose-check
compose-check: tools
	@if docker compose version >/dev/null 2>&1; then compose=(docker compose); \
	elif command -v docker-compose >/dev/null; then compose=(docker-compose); \
	else \
	  client=$(TOOLS)/compose/compose/docker-compose; \
	  [ -x $$client ] || $(call tool,uv) pip install --quiet --target $(TOOLS)/compose --no-deps --require-hashes \
	    --only-binary :all: --python-platform x86_64-manylinux_2_35 --python-version 3.13 -r tools/compose.txt; \
	  $$client version >/dev/null || { echo "install docker compose: there is no pinned one for this machine" >&2; exit 1; }; \
	  compose=("$$PWD/$$client"); \
	fi; \
	for profile in none cpu gpu; do \
	  "$${compose[@]}" -f $(COMPOSE_FILE) --env-file deploy/env.example --profile $$profile config --quiet; \
	  echo "compose-check: $(COMPOSE_FILE) with profile $$profile is valid ($${compose[*]##*/})"; \
	done

# Each node's configuration with each role, as the compose file starts it.
.PHONY: nats-check
nats-check: tools
	@set -a; source deploy/env.example; NATS_NAME=nats-1; set +a; \
	for conf in deploy/nats/node.conf deploy/nats/single.conf; do $(call tool,nats-server) -t -c $$conf; done

.PHONY: deny
deny: ## licences, sources, bans, known vulnerabilities (builds cargo-deny once, some minutes)
	tools/deny.sh

# What the parts need

# nats-server and uv: those of this machine when they are good, else pinned ones.
.PHONY: tools
tools:
	@mkdir -p $(TOOLS)
	@$(CARGO) run --locked -q -p grange-local-farm --bin grange-tools -- --state $(TOOLS) uv nats-server > $(TOOLS)/paths.new
	@mv $(TOOLS)/paths.new $(TOOLS)/paths

$(VENV)/ready: tools/requirements.txt | tools
	$(call tool,uv) venv --quiet --clear --python python3 $(VENV)
	$(call tool,uv) pip sync --quiet --python $(PYTHON) --require-hashes $<
	touch $@

.PHONY: python-lock
python-lock: tools ## write tools/requirements.txt anew
	$(call tool,uv) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header tools/requirements.in -o tools/requirements.txt
