# Rendering and checking a matrix of documents.

.PHONY: verify-modes
verify-modes: $(TEST_STAMP) servers ## Render and verify at least 60 documents: modes, engines, models, vendors, profiles.
	@$(BIN)/python -m pytest -q tests/verify --durations=3

.PHONY: bench-render
bench-render: $(TEST_STAMP) servers ## How long rendering takes, for each mode, and verifying the matrix.
	@$(BIN)/python -m benchmarks.render --form full $(ARGS)
