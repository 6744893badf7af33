# make serve   the service on http://127.0.0.1:8000; PORT=8001 for another; Ctrl-C ends it
# make test    lint, types and the whole suite
# The rest: make install lint types unit bench proto clean

# PYTHON is only used to make .venv. GPU=1 installs the CUDA build of ONNX Runtime, GPU=0 the CPU
# build; unset: whether nvidia-smi answers.
PYTHON ?= python3
PORT ?=
GPU ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 0)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-gpu$(GPU)
SHIMS := ./packaging/opencv-python $(if $(filter 1,$(GPU)),./packaging/onnxruntime)
OTHER := $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*))
# What old clients have; it cannot lie beside the newer one.
OLD_JSONPICKLE := $(VENV)/jsonpickle-2.0.0
INPUTS := pyproject.toml constraints.txt $(wildcard packaging/*/pyproject.toml)

.PHONY: serve test install check-environment lint types unit pytest bench proto clean

# The segmenter it fetches the first time has weights under the GPL; FACEGRAPH_SEGMENTER=none make
# serve does without masks.
serve: $(STAMP)
	@exec $(BIN)/facegraph serve --accept-license GPL-3.0 $(if $(PORT),--port $(PORT))

install: $(STAMP)

test: lint types pytest

pytest: $(STAMP)
	$(BIN)/facegraph models pull opencv
	$(BIN)/facegraph models pull yolov5s-seg --accept-license
	@test -d $(OLD_JSONPICKLE) || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --target $(OLD_JSONPICKLE) jsonpickle==2.0.0
	$(BIN)/python -m pytest

unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/facegraph check serve_config.yaml

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# What facegraph/api/grpc/facegraph.proto says, as Python.
proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
	  facegraph/api/grpc/facegraph.proto

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

# The two builds of ONNX Runtime own the same files, so the one goes before the other comes.
$(STAMP): $(INPUTS)
	@$(MAKE) --no-print-directory check-environment
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (GPU=$(GPU)); the first time takes some minutes"
	@test -z "$(OTHER)" || $(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	@rm -f $(VENV)/.installed-*
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(SHIMS) -e '.[dev]'
	@$(BIN)/python -m pip check
	@touch $@

check-environment:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) found; install Python 3.11 or newer, or give PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); give another with PYTHON=" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) lacks venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
