# Rendering and checking a matrix of documents.

.PHONY: verify-modes
verify-modes: $(TEST_STAMP) servers ## Render and verify at least 60 documents: modes, engines, models, vendors, profiles.
	@$(BIN)/python -m pytest -q tests/verify --durations=3
