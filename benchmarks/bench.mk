# Benchmarks: each target ends with one line of JSON (figures and goals) and exits 1 when a goal is missed.
# Included by the Makefile. What is measured and how: benchmarks/README.md. ARGS="…" is passed on.

PEERS := .venv-peers
LITELLM_STAMP := $(PEERS)/litellm/.done
SGLANG_STAMP := $(PEERS)/sglang/.done-0.3.2

.PHONY: bench
bench: $(BASE_STAMP) bench-peers bench-tools ## The short form of every benchmark, a few minutes.
	@status=0; \
	$(BIN)/python -m benchmarks.gateway --form short || status=1; \
	$(BIN)/python -m benchmarks.engine --form short || status=1; \
	$(BIN)/python -m benchmarks.ledger --form short || status=1; \
	$(BIN)/python -m benchmarks.e2e --form short || status=1; \
	$(BIN)/python -m benchmarks.start --form short || status=1; \
	$(BIN)/python -m benchmarks.billing --form short || status=1; \
	exit $$status

.PHONY: bench-gateway
bench-gateway: $(BASE_STAMP) bench-peers bench-tools ## Our gateway beside nginx, SGLang's gateway and LiteLLM.
	@$(BIN)/python -m benchmarks.gateway --form full $(ARGS)

.PHONY: bench-engine
bench-engine: $(BASE_STAMP) bench-tools ## The embedded engine through our API beside the bare llama.cpp server.
	@$(BIN)/python -m benchmarks.engine --form full $(ARGS)

.PHONY: bench-e2e
bench-e2e: $(BASE_STAMP) bench-tools ## Poisson arrivals through gateway and engine: rate against latency, the gateway's share.
	@$(BIN)/python -m benchmarks.e2e --form full $(ARGS)

.PHONY: bench-start
bench-start: $(BASE_STAMP) ## From `sextant up` to the first token, by phase.
	@$(BIN)/python -m benchmarks.start --form full $(ARGS)

.PHONY: bench-cold-start
bench-cold-start: $(BASE_STAMP) ## From starting vLLM to its first token, with each measure of a bundle.
	@$(MAKE) --no-print-directory $(VLLM_STAMP)
	@$(BIN)/python -m benchmarks.cold_start --form full $(ARGS)

.PHONY: bench-gitops
bench-gitops: $(BASE_STAMP) ## From `git commit` to the first token of the new model version, by phase.
	@$(BIN)/python -m benchmarks.gitops --form full $(ARGS)

.PHONY: bench-ledger
bench-ledger: $(BASE_STAMP) ## What durability costs: the governor, the ledger client and the ledger process.
	@$(BIN)/python -m benchmarks.ledger --form full $(ARGS)

.PHONY: bench-billing
bench-billing: $(BASE_STAMP) ## Invoices and usage pages over a ledger of a million rows.
	@$(BIN)/python -m benchmarks.billing --form full $(ARGS)

# The peers live in virtual environments of their own: they are no dependency of ours.
.PHONY: bench-peers
bench-peers: $(LITELLM_STAMP) $(SGLANG_STAMP)

$(LITELLM_STAMP):
	@echo "installing LiteLLM into $(PEERS)/litellm …"
	@.ci/python-venv $(PEERS)/litellm
	@$(PEERS)/litellm/bin/python -m pip install --quiet --disable-pip-version-check --no-input 'litellm[proxy]>=1.106'
	@touch $@

$(SGLANG_STAMP):
	@echo "installing SGLang's gateway into $(PEERS)/sglang …"
	@.ci/python-venv $(PEERS)/sglang
	@$(PEERS)/sglang/bin/python -m pip install --quiet --disable-pip-version-check --no-input 'sglang-router==0.3.2'
	@touch $@

.PHONY: bench-tools
bench-tools:
	@.ci/debian-packages nginx:/usr/sbin/nginx wrk:/usr/bin/wrk gcc:/usr/bin/gcc libc6-dev:/usr/include/stdio.h

.PHONY: bench-pii
bench-pii: $(BASE_STAMP) ## Personal data: precision and recall by type on a generated set, microseconds per KiB.
	@$(BIN)/python -m benchmarks.pii --form full $(ARGS)

.PHONY: bench-features
bench-features: $(TEST_STAMP) servers bench-tools ## What each part of governance costs: limits, money, privacy, Redis, PostgreSQL, slow syncs.
	@$(BIN)/python -m benchmarks.features --form full $(ARGS)
