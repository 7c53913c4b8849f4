# One command each: `make up` runs the stack, `make test` proves it, `make check` reads it.
# Stamps under .venv/ are named after a hash of what they install, so that a second run installs nothing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
TORCH := torch==2.13.0

HASH := $(shell sha256sum pyproject.toml src/sextant/__init__.py | sha256sum | cut -c1-16)
BASE_STAMP := $(VENV)/.base-$(HASH)
TEST_STAMP := $(VENV)/.test-$(HASH)
CHECK_STAMP := $(VENV)/.check-$(HASH)
TORCH_STAMP := $(VENV)/.torch-2.13.0
NODE_CLIENTS := tests/clients/node
CLIENTS_STAMP := $(VENV)/.clients-$(HASH)-$(shell sha256sum $(NODE_CLIENTS)/package-lock.json | cut -c1-16)
WORKSHOP_STAMP := $(VENV)/.workshop-$(HASH)

SHARD := $(BIN)/python tests/shard.py

.PHONY: help
help: ## What can be made.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort -u | \
	while IFS=$$'\t' read -r name words; do printf '  make %-16s %s\n' "$$name" "$$words"; done

# ---- setup ---------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(BASE_STAMP) ## Install Sextant into .venv.

$(BIN)/python:
	@PYTHON="$(PYTHON)" .ci/python-venv $(VENV)

$(BASE_STAMP): | $(BIN)/python
	@echo "installing Sextant into $(VENV) (about a minute the first time) …"
	@$(PIP) --editable .
	@rm -f $(VENV)/.base-* && touch $@

$(TEST_STAMP): $(BASE_STAMP)
	@echo "installing what the tests need …"
	@$(PIP) --group test
	@rm -f $(VENV)/.test-* && touch $@

$(CHECK_STAMP): $(BASE_STAMP)
	@echo "installing what the checks need …"
	@$(PIP) --group check --group test
	@rm -f $(VENV)/.check-* && touch $@

# Plain pip, this one package alone and first: any other request brings gigabytes of CUDA along.
$(TORCH_STAMP): | $(BASE_STAMP)
	@echo "installing $(TORCH) …"
	@$(PIP) $(TORCH)
	@touch $@

$(WORKSHOP_STAMP): $(TORCH_STAMP) $(BASE_STAMP)
	@echo "installing the workshop …"
	@$(PIP) --editable '.[workshop]'
	@rm -f $(VENV)/.workshop-* && touch $@

# A browser, its driver, Node, and the clients that npm installs into tests/clients/node.
$(CLIENTS_STAMP): $(TEST_STAMP)
	@.ci/debian-packages chromium:/usr/bin/chromium
	@echo "installing clients that are not Python's …"
	@$(PIP) --group clients
	@cd $(NODE_CLIENTS) && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent --no-audit --no-fund
	@rm -f $(VENV)/.clients-* && touch $@

.PHONY: servers
servers: | $(BIN)/python ## Install what tests need of Debian, when missing: PostgreSQL, Redis, real proxies, OpenSSL, a C compiler.
	@.ci/debian-packages nginx:/usr/sbin/nginx haproxy:/usr/sbin/haproxy openssl:/usr/bin/openssl \
		gcc:/usr/bin/gcc libc6-dev:/usr/include/stdio.h \
		'postgresql:/usr/lib/postgresql/*/bin/postgres' redis-server:/usr/bin/redis-server util-linux:/usr/bin/setpriv \
		prometheus:/usr/bin/promtool victoria-metrics:/usr/bin/vmagent prometheus-alertmanager:/usr/bin/amtool \
		restic:/usr/bin/restic skopeo:/usr/bin/skopeo keepalived:/usr/sbin/keepalived nftables:/usr/sbin/nft shellcheck:/usr/bin/shellcheck \
		systemd:/usr/bin/systemd-analyze iproute2:/usr/sbin/ip softhsm2:/usr/bin/softhsm2-util \
		'libengine-pkcs11-openssl:/usr/lib/*/engines-3/pkcs11.so'
	@.ci/debian-program trixie docker-compose usr/libexec/docker/cli-plugins/docker-compose $(BIN)/docker-compose
	@.ci/debian-program trixie kubectl usr/bin/kubectl $(BIN)/kubectl

.PHONY: up
up: $(BASE_STAMP) ## Run the stack in the foreground; ARGS="…" is passed to `sextant up`.
	@exec $(BIN)/sextant up $(ARGS)

# ---- tests ---------------------------------------------------------------------------------------------

.PHONY: test
test: $(TEST_STAMP) $(WORKSHOP_STAMP) $(CLIENTS_STAMP) servers ## Everything that proves the product, one shard after another.
	@$(SHARD) all

.PHONY: test-fast
test-fast: $(TEST_STAMP) servers ## Under a minute: what you run while you type.
	@$(SHARD) fast

.PHONY: test-core
test-core: $(TEST_STAMP) servers ## The document, the gateway, governance and the store, in process.
	@$(SHARD) core

.PHONY: test-render
test-render: $(TEST_STAMP) servers ## Rendering: command lines, bundles, their validators.
	@$(SHARD) render

.PHONY: test-install
test-install: $(TEST_STAMP) servers ## Bundles without a cluster: installed, used, upgraded, rolled back, removed.
	@$(SHARD) install

.PHONY: test-transport
test-transport: $(TEST_STAMP) servers ## The HTTP transport: smuggling corpus, real proxies, fuzzing, canaries.
	@$(SHARD) transport

.PHONY: test-stack
test-stack: $(TEST_STAMP) servers ## The running stack.
	@$(SHARD) stack

.PHONY: test-proofs
test-proofs: $(TEST_STAMP) servers ## Kills, races and upgrades: the books are right whatever happens.
	@$(SHARD) proofs

.PHONY: test-clients
test-clients: $(CLIENTS_STAMP) servers ## Unchanged clients from PyPI and npm, a browser, and Sextant from its wheel.
	@$(SHARD) clients

.PHONY: test-workshop
test-workshop: $(TEST_STAMP) $(WORKSHOP_STAMP) ## The bundled model: data, tokenizer, conversion, accuracy.
	@$(SHARD) workshop

# ---- checks and docs -----------------------------------------------------------------------------------

.PHONY: check
check: $(CHECK_STAMP) ## Lint, format, types, layers, house style.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir .import_linter_cache
	@$(BIN)/python -m pytest tests/tidy

.PHONY: format
format: $(CHECK_STAMP) ## Format the code and sort its imports.
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

.PHONY: docs
docs: $(TEST_STAMP) ## Write the generated reference pages and the JSON Schema.
	@$(BIN)/python docs/generate.py

.PHONY: wheel
wheel: $(BASE_STAMP) ## Build the wheel into dist/.
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

.PHONY: clean
clean: ## Remove the environment, caches and builds; state in .sextant stays.
	rm -rf $(VENV) .venv-* dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache

-include benchmarks/bench.mk
-include benchmarks/planner.mk
-include tests/transport/fuzz/fuzz.mk
-include tests/vllm/vllm.mk
-include tests/triton_server/triton.mk
-include tests/crash/crash.mk
-include tests/verify/modes.mk
