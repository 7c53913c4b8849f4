# Triton itself on the CPU, with TensorRT-LLM's place taken by a stand-in: opt-in, 75 MB of wheels in a folder of
# their own (this Triton's Python backend wants NumPy 1). Included by the Makefile. The folder is not named `triton`:
# torch would take it for the compiler of that name.

TRITON_FOLDER := .venv-triton
TRITON_WHEELS := nvidia-pytriton==0.7.0 numpy==1.26.4
TRITON_STAMP := $(TRITON_FOLDER)/.done-0.7.0

.PHONY: test-triton
test-triton: $(TEST_STAMP) $(TRITON_STAMP) ## Triton itself serves our model repository for TensorRT-LLM, which a stand-in is for.
	@$(BIN)/python -m pytest tests/triton_server/behind_triton.py $(ARGS)

$(TRITON_STAMP): | $(TEST_STAMP)
	@rm -rf $(TRITON_FOLDER)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --target $(TRITON_FOLDER) $(TRITON_WHEELS)
	@touch $@
