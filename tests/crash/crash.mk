# Kills at random moments, and many processes at one limit. ROUNDS=100 SEED=1234 choose.

ROUNDS ?= 100

.PHONY: crash
crash: $(TEST_STAMP) servers ## ROUNDS=100 kills (-9) of every process at random moments under load; the books must be right.
	@PYTHONPATH=tests:. $(BIN)/python -m crash.rounds --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

.PHONY: race
race: $(TEST_STAMP) servers ## Gateway processes x 200 parallel calls on one key at each of its limits: never over by one.
	@$(BIN)/python -m pytest -s tests/race
