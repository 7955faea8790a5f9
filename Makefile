# make lab      open the notebooks in JupyterLab
# make test     run every test, and every notebook at smoke size
# make lint     check format and style
# make lesson   run the notebooks at lesson size and save their outputs (NB=02_temperature for one)
# make clean    remove what make made

PYTHON ?= python3
BIN := .venv/bin
NB ?=
ARGS ?=
# JupyterLab asks for this in a container, where one is root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test lint lesson clean

lab: .venv/ready
	$(BIN)/jupyter lab $(AS_ROOT) $(ARGS) notebooks/00_start_here.ipynb

test: .venv/ready
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lesson: .venv/ready
	$(BIN)/python tools/lesson.py $(NB)

.venv/ready: pyproject.toml
	@echo "Installing into .venv; the first time this takes a few minutes."
	$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
