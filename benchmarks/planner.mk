# The planner against measurements. Full accuracy: `make bench-planner POINTS=serving_silicon.csv` (see
# benchmarks/planner/data/README.md); without it, the slice that is shipped, which says little but runs anywhere.
# Every part runs; the exit status tells at the end whether all goals were met. ARGS=--keep writes benchmarks/results/.
POINTS ?= benchmarks/planner/data/serving_points.csv
FIT_STAMP := $(VENV)/.fit-lightgbm-4.7.0
KEEP = $(filter --keep,$(ARGS))

$(FIT_STAMP): $(BASE_STAMP)
	@$(PIP) lightgbm==4.7.0 scikit-learn numpy
	@touch $@

.PHONY: bench-planner
bench-planner: $(FIT_STAMP) ## Predictions against measured points (POINTS=FILE for all of them), published rows, what fits, speed, this machine.
	@status=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.planner.fit $(POINTS) $(ARGS) || status=1; \
	$(BIN)/python -m benchmarks.planner.published $(KEEP) || status=1; \
	$(BIN)/python -m benchmarks.planner.fits $(POINTS) $(KEEP) || status=1; \
	$(BIN)/python -m benchmarks.planner.speed $(KEEP) || status=1; \
	$(MAKE) --no-print-directory bench-planner-local || status=1; \
	if [ $$status = 0 ]; then echo "bench-planner: every goal met"; else echo "bench-planner: goals missed, named above"; fi; \
	exit $$status

.PHONY: bench-planner-local
bench-planner-local: $(BASE_STAMP) ## The planner, calibrated on this machine, against what the bundled engine then does.
	@$(BIN)/python -m benchmarks.planner_local $(LOCAL_ARGS)
