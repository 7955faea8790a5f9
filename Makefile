# For everyone
#   make lab         install what a learner needs, and open lesson 00 in JupyterLab
#   make test        run every quick test, and every notebook at smoke size, on all cores (ARGS=tests/test_losses.py for one file)
#   make test-all    make test, then the slow tests: browsers, nbgrader, kernels, clusters, other libraries' loops
#   make lint        check format and style
#   make lesson      run the notebooks at lesson size and save their outputs (NB=02_temperature for one)
#   make site        write the lessons as static pages into site/, to be opened from disk or put on a web server
#   make gpu         the tests that need a GPU, then the benchmark of training; PYTHON=python3 takes the
#                    Python that is there and installs nothing
#   make clean       remove what make made
# For lecturers
#   make homework    build what students get, notebooks/homework/release, from source with the solutions
#   make grade       grade notebooks/homework/submitted: grades.csv, report.md, feedback
#   make feedback    write grades.csv and feedback again, after reading the open answers
# For maintainers
#   make mutations   plant faults into a copy of kdlib; a test has to notice each (NAME=soften for those of one function)
#   make heads       write the head of every notebook from its metadata
#   make docs        write the tables of README and docs/ from notebooks and shipped results
#   make thumbnails  write the small pictures of the README's table (make lesson does it, too)
#   make animation   write the README's moving picture of the temperature explorer (needs Chromium)
#   make explorers   put the present drawing into the explorers that the notebooks hold
#   make test-floors every test on the lowest versions that pyproject.toml allows (Python 3.10 to 3.12)
#   make wheel       build the wheel, and run lesson 00 from it in an empty environment
#   make publish     write the notebooks' copies for Colab into build/published (for the hosted workflow)

PYTHON ?= python3
BIN := .venv/bin
NB ?=
NAME ?=
ARGS ?=
WORKERS ?= logical
# Each process has one torch thread, and takes tests from the other when it has none left.
PYTEST := -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
# JupyterLab asks for this in a container, where one is root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Whoever names a Python for the GPU has torch in it.
GPU_PYTHON := $(if $(filter file,$(origin PYTHON)),$(BIN)/python,$(PYTHON))

.PHONY: lab test test-all lint lesson site gpu clean homework grade feedback mutations heads docs thumbnails animation \
    explorers test-floors wheel publish

# tools/lab: no question about news, and none of nbgrader's panels, which make test brings.
lab: .venv/lab
	JUPYTER_CONFIG_PATH="$(CURDIR)/tools/lab:$$JUPYTER_CONFIG_PATH" $(BIN)/jupyter lab $(AS_ROOT) $(ARGS) notebooks/00_start_here.ipynb

test: .venv/ready
	$(BIN)/python $(PYTEST) -m "not slow" $(ARGS)

test-all: test .venv/others
	$(BIN)/python $(PYTEST) -m slow $(ARGS)

mutations: .venv/ready
	$(BIN)/python tests/mutations.py $(NAME)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lesson: .venv/ready
	$(BIN)/python tools/lesson.py $(NB)
	$(BIN)/python tools/thumbnails.py

site: .venv/ready
	$(BIN)/python tools/pages.py

thumbnails: .venv/ready
	$(BIN)/python tools/thumbnails.py

animation: .venv/ready
	$(BIN)/python tools/animation.py

explorers: .venv/ready
	$(BIN)/python tools/explorers.py

homework: .venv/ready
	$(BIN)/python tools/heads.py
	$(BIN)/python -m kdlib.course.grading release $(ARGS)

grade: .venv/ready
	$(BIN)/python -m kdlib.course.grading grade $(ARGS)

feedback: .venv/ready
	$(BIN)/python -m kdlib.course.grading feedback $(ARGS)

heads: .venv/ready
	$(BIN)/python tools/heads.py

docs: .venv/ready
	$(BIN)/python tools/docs.py

wheel: .venv/ready
	$(BIN)/python tools/try_wheel.py

publish: .venv/ready
	$(BIN)/python tools/publish.py

gpu: $(if $(filter file,$(origin PYTHON)),.venv/ready)
	@$(GPU_PYTHON) -c "import torch as t; t.cuda.is_available() or t.backends.mps.is_available() or exit('torch sees no GPU here')"
	$(GPU_PYTHON) -m pytest -rs tests/gpu $(ARGS); tests=$$?; PYTHONPATH=. $(GPU_PYTHON) benchmarks/training.py && exit $$tests

# nbgrader's setuptools would refuse to start where Python 3.10's own distutils is already imported.
test-floors: build/floors/ready
	SETUPTOOLS_USE_DISTUTILS=stdlib build/floors/bin/python $(PYTEST) $(ARGS)

build/floors/ready: pyproject.toml tools/floors.py
	$(PYTHON) -m venv build/floors
	@build/floors/bin/python -m pip install --quiet --upgrade pip
	build/floors/bin/python tools/floors.py > build/floors/constraints.txt
	@build/floors/bin/python -m pip install --quiet --editable '.[test]' --constraint build/floors/constraints.txt
	@touch $@

# What one needs to learn; to test as well; to test beside other libraries.
.venv/lab: pyproject.toml
	$(call install,lab)
	@touch $@

.venv/ready: pyproject.toml
	$(call install,test)
	@touch .venv/lab $@

.venv/others: pyproject.toml .venv/ready
	$(call install,test$(comma)others)
	@touch $@

comma := ,
define install
	@echo "Installing into .venv; the first time this takes a few minutes."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef

clean:
	rm -rf .venv build site .site-* .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
