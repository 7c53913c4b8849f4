# Long fuzzing of the transport; the short form is part of `make test`. FUZZ_RUNS inputs for each side.
FUZZ_RUNS ?= 10000000

.PHONY: fuzz-transport
fuzz-transport: $(TEST_STAMP) ## Fuzz both sides of the transport with FUZZ_RUNS inputs each (hours).
	@mkdir -p .cache/fuzz
	@for side in server upstream; do \
		$(BIN)/python tests/transport/fuzz/run.py $$side --corpus .cache/fuzz/$$side -runs=$(FUZZ_RUNS) \
			-artifact_prefix=.cache/fuzz/ -print_final_stats=1 2>&1 | tail -n 20; \
		test $${PIPESTATUS[0]} -eq 0; \
	done
