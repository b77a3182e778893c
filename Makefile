# The two commands of a newcomer are `make report` and `make test`; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
PYTEST := -q -n 2 --dist loadfile --no-loadscope-reorder
PEERS := .venv-bench-sampling
DIT := .venv-dit
METRICS := .venv-metrics
PRETRAINED := .venv-pretrained
GPU := .venv-gpu
# A checkout of facebookresearch/DiT.
REFERENCE ?=
# A checkout of CompVis/latent-diffusion; its parity test is skipped without.
LDM_REFERENCE ?=

.PHONY: report test test-slow lint claims benchmarks named parity metrics-parity pretrained train-step train-step-gpu clean

report: $(STAMP)
	$(BIN)/python -m imagegen report

test: lint
	$(BIN)/python -m pytest tests $(PYTEST)
	$(BIN)/python -m pytest tests/imagegen $(PYTEST)

test-slow: lint
	$(BIN)/python -m pytest tests $(PYTEST) -m 'slow and not gpu'
	$(BIN)/python -m pytest tests/imagegen $(PYTEST) -m 'slow and not gpu'

claims: $(STAMP)
	$(BIN)/python -m theory

benchmarks: $(BENCH)/.installed $(PEERS)/.installed
	$(BENCH)/bin/python benchmarks/gaussian_wasserstein.py --output benchmarks/RESULTS-wasserstein.md
	$(BENCH)/bin/python benchmarks/fisher_rao.py --output benchmarks/RESULTS-fisher.md
	$(PEERS)/bin/python benchmarks/mixture_sampling.py --output benchmarks/RESULTS-sampling.md
	$(PEERS)/bin/python benchmarks/empirical_denoiser.py --output benchmarks/RESULTS-empirical.md

named:
	$(if $(REFERENCE),,$(error name a checkout of facebookresearch/DiT: make $(MAKECMDGOALS) REFERENCE=DIR))

parity: named $(STAMP) $(DIT)/.installed
	$(BIN)/python -m pytest tests/imagegen/test_dit_parity.py tests/imagegen/test_ldm_parity.py \
		tests/imagegen/test_diffusers_parity.py -q -rPs -m 'slow or not slow' --reference $(REFERENCE) \
		$(if $(LDM_REFERENCE),--ldm-reference $(LDM_REFERENCE)) --reference-python $(DIT)/bin/python

metrics-parity: $(STAMP) $(METRICS)/.installed
	$(BIN)/python -m pytest tests/imagegen/test_metrics_parity.py -q -rP --metrics-python $(METRICS)/bin/python

# What `make test` skips for want of PyTorch, diffusers and transformers, and the parity of BERT.
pretrained: $(PRETRAINED)/.installed
	$(PRETRAINED)/bin/python -m pytest tests/imagegen/test_latents.py tests/imagegen/test_prepared_text.py \
		tests/imagegen/test_clip.py tests/imagegen/test_codebook.py tests/imagegen/test_scores.py \
		tests/imagegen/test_grades.py tests/imagegen/test_data_rewriting.py tests/imagegen/test_text_parity.py \
		-q -rPs -m 'slow or not slow' --text-python $(PRETRAINED)/bin/python

train-step: named $(STAMP) $(DIT)/.installed
	$(BIN)/python benchmarks/train_step.py --reference $(REFERENCE) --reference-python $(DIT)/bin/python \
		--networks dit-s/2 dit-b/2 ldm-4 --batch 8 4 1 --rounds 3 --sampled 1 1 0 \
		--output benchmarks/RESULTS-train-step.md

# On a GPU, up to DiT-XL/2 and LDM-4 in bfloat16, fast enough to be compared with RESULTS-roofline.md.
train-step-gpu: named $(GPU)/.installed $(DIT)/.installed
	$(GPU)/bin/python benchmarks/train_step.py --reference $(REFERENCE) --reference-python $(DIT)/bin/python \
		--networks dit-s/2 dit-b/2 dit-xl/2 ldm-4 --batch 256 --compute bfloat16 --steps 10 --rounds 5 --sampled 2 \
		--output benchmarks/RESULTS-train-step-gpu.md

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(BENCH) $(PEERS) $(DIT) $(METRICS) $(PRETRAINED) $(GPU) report results build dist

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Patina needs Python >= 3.11; found " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 report") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $(STAMP)

$(BENCH)/.installed: pyproject.toml benchmarks/constraints.txt
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints.txt --editable '.[bench]'
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint benchmarks/constraints.txt pyBregMan
	touch $(BENCH)/.installed

$(PEERS)/.installed: pyproject.toml benchmarks/constraints-sampling.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints-sampling.txt --editable '.[bench-sampling]'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint benchmarks/constraints-sampling.txt k-diffusion smalldiffusion
	touch $(PEERS)/.installed

$(DIT)/.installed: benchmarks/constraints-dit.txt
	$(PYTHON) -m venv --clear $(DIT)
	$(DIT)/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints-dit.txt torch torchvision timm einops diffusers
	touch $(DIT)/.installed

$(METRICS)/.installed: benchmarks/constraints-metrics.txt
	$(PYTHON) -m venv --clear $(METRICS)
	$(METRICS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints-metrics.txt torch torchvision torch-fidelity
	touch $(METRICS)/.installed

$(GPU)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(GPU)
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gpu]'
	touch $(GPU)/.installed

$(PRETRAINED)/.installed: pyproject.toml constraints.txt benchmarks/constraints-pretrained.txt
	$(PYTHON) -m venv --clear $(PRETRAINED)
	$(PRETRAINED)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint benchmarks/constraints-pretrained.txt --editable '.[test,pretrained]'
	touch $(PRETRAINED)/.installed
