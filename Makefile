# Everything installs itself into $(VENV). `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= $(VENV)-oldest
# With DATA (imagenet, imagenet100, imagenette, ...) an ImageNet figure is trained on those: by the paper's protocol.
# A DATA that ends with .txt is a text of your own for `language`, which reads it from the environment.
IMAGES := $(filter-out %.txt,$(DATA))
PRESET ?= $(if $(IMAGES),paper,quick)
RUNS_DIR ?= runs
DATA_DIR ?= data
OUT ?= results
RESULTS ?= experiments/results
FIG ?= fig1
ARGS ?=

BIN := $(VENV)/bin
WHERE = $(if $(IMAGES),--data $(IMAGES)) $(if $(LAUNCHER),--launcher $(LAUNCHER)) $(if $(DEVICES),--devices $(DEVICES)) \
	$(if $(PER_RUN),--per-run $(PER_RUN)) $(if $(NUM_NODES),--num-nodes $(NUM_NODES)) \
	$(if $(MINUTES),--minutes $(MINUTES))
export RUNS_DIR DATA_DIR DATA

.DEFAULT_GOAL := help
.PHONY: help install install-dev test test-slow test-oldest lint format lines bench calibration findings docs report slides \
	missing compare pack unpack wandb-sync wheel clean FORCE

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z%0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make .venv and install the package with pinned versions
install-dev: $(VENV)/.installed-dev ## The same, with what tests and lint need

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lit_hidden needs Python 3.11 or newer; this is %d.%d. Say which: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip --version >/dev/null || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): torch and torchvision are large, this takes some minutes the first time."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

$(VENV)/.installed-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,tour]'
	@touch $@

# The lowest version that pyproject.toml allows, of each package that it names.
$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	sed -nE 's/^ *"([a-zA-Z0-9_-]+)(\[.*\])?>=([0-9.]+)",$$/\1==\3/p' pyproject.toml | sort -u > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt -e '.[dev]'
	@touch $@

# In the order of files: those with few tests, which would else come last, are the long ones.
test: install-dev ## Run the tests, but those of the notebook, the browser and the documentation (about four minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.installed-slow ## Run these: the tour, the demo from the wheel, the site, the pages in Chromium (skipped without one)
	$(BIN)/python -m pytest -m slow $(ARGS)

# Old releases warn of much; that is no error here.
test-oldest: $(OLDEST)/.installed ## Run the test suite with the lowest versions of all dependencies, beside .venv
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -W default $(ARGS)

lint: install-dev ## Check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The reading path explains the rest, in one evening.
lines: ## Count the lines of Python: the rooms of the library, the reading path, the library without callbacks, tests, experiments
	@git ls-files '*.py' | xargs wc -l | awk '$$2 ~ "/" { split($$2, part, "/"); sub(/\.py$$/, "", part[2]); \
		if (part[1] == "lit_hidden") room["lit_hidden/" part[2]] += $$1; \
		if ($$2 ~ /^lit_hidden/ && $$2 ~ /(edge_popup|nets|classifier|run|results|engine\/(store|train|reproduce))\.py$$|\/selection\//) path += $$1; \
		if ($$2 !~ /^lit_hidden\/callbacks\//) all[part[1]] += $$1 } \
		END { for (name in room) printf "%6d  %s\n", room[name], name | "sort -rn"; close("sort -rn"); \
		printf "%6d  the reading path\n", path; \
		for (name in all) printf "%6d  %s in all%s\n", all[name], name, name == "lit_hidden" ? ", without callbacks" : "" }'

reproduce-%: install FORCE ## Train a figure's missing runs, check its claims, draw it (reproduce-all: every figure; PRESET=quick, DATA=, DEVICES=, PER_RUN=, LAUNCHER=, MINUTES=)
	$(BIN)/lit-hidden reproduce $* --preset $(PRESET) --out $(OUT) $(WHERE) $(ARGS)

bench: $(VENV)/.installed-bench ## Measure selection, training steps, input, an epoch, start; table and plot (ONLY=selection,steps; ARGS="--seconds 3")
	$(BIN)/lit-hidden bench $(if $(ONLY),--only $(ONLY)) --out $(OUT)/bench $(ARGS)

calibration: install ## Simulate how often verdicts are wrong in grids of known truth (ARGS="--grids 1000": a first look)
	$(BIN)/python experiments/_calibration.py --out $(RESULTS)/calibration $(ARGS)

findings: install ## Write the tables of findings in README.md and docs/ from the committed verdicts
	$(BIN)/python -m experiments._findings

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# What the documentation shows or links to.
PAGES = README.md CHANGELOG.md CITATION.cff LICENSE constraints.txt docs experiments lit_hidden pyproject.toml

docs: $(VENV)/.installed-docs ## Build the documentation into build/site, without a network; a link that leads nowhere is an error
	mkdir -p build/pages && ln -sfn $(addprefix ../../,$(PAGES)) build/pages/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

report: install ## Write one HTML page of all committed results, or of one experiment's (ONLY=fig3; RESULTS=experiments/results)
	$(BIN)/lit-hidden report --results $(RESULTS) $(if $(ONLY),--only $(ONLY)) $(ARGS)

slides: install ## Write slides of all committed results, with notes, one HTML file (RESULTS=experiments/results)
	$(BIN)/lit-hidden slides --results $(RESULTS) $(ARGS)

missing: install ## List the runs that committed presets still lack, and their time (ARGS="--preset short": of all)
	$(BIN)/lit-hidden missing --results $(RESULTS) $(ARGS)

compare: install ## Print an experiment's runs side by side (FIG=fig3; ARGS="--sort accuracy --where net=conv4")
	$(BIN)/lit-hidden compare $(FIG) --preset $(PRESET) --results $(RESULTS) $(ARGS)

pack: install ## Put a figure's runs into one file beside its committed results (FIG=fig3 PRESET=short)
	$(BIN)/lit-hidden pack $(FIG) --preset $(PRESET) --results $(RESULTS) $(ARGS)

unpack: install ## Take the committed runs as done: draw again without training, go on where they stop
	$(BIN)/lit-hidden unpack --results $(RESULTS) $(ARGS)

wandb-sync: install ## Upload the runs that Weights & Biases kept offline in wandb/
	WANDB_MODE=online $(BIN)/wandb sync --yes $(ARGS)

wheel: install-dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel .

clean: ## Remove what was built and drawn; runs/ and data/ stay
	rm -rf build dist results report*.html slides.html *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

FORCE:
