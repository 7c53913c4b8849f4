# The planner against measurements. Full accuracy: `make bench-planner POINTS=serving_silicon.csv` (see
# benchmarks/planner/data/README.md); without it, the slice that is shipped, which says little but runs anywhere.
POINTS ?= benchmarks/planner/data/serving_points.csv
FIT_STAMP := $(VENV)/.fit-lightgbm-4.7.0

$(FIT_STAMP): $(BASE_STAMP)
	@$(PIP) lightgbm==4.7.0 scikit-learn numpy
	@touch $@

.PHONY: bench-planner
bench-planner: $(FIT_STAMP) ## Predictions against measured points (POINTS=FILE for all of them), published rows, what fits, this machine.
	@OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.planner.fit $(POINTS) $(ARGS)
	@$(BIN)/python -m benchmarks.planner.published $(filter --keep,$(ARGS))
	@$(BIN)/python -m benchmarks.planner.fits $(POINTS) $(filter --keep,$(ARGS))
	@$(MAKE) --no-print-directory bench-planner-local

.PHONY: bench-planner-local
bench-planner-local: $(BASE_STAMP) ## The planner, calibrated on this machine, against what the bundled engine then does.
	@$(BIN)/python -m benchmarks.planner_local $(LOCAL_ARGS)
