# make demo: set everything up and run Algorithm 1 on Meta-World. make test: set up the same and run the tests.
# make attack: set up the same and break runs on purpose, for about an hour.
.PHONY: setup demo test check slow attack clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON="$(or $(PYTHON),python3)" sh scripts/setup.sh

demo: setup
	@.venv/bin/irevla run quickstart

# Compiled modules are kept, whatever the environment says: hundreds of small processes import them.
test: setup
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -n 2 --dist worksteal

slow: setup
	@.venv/bin/python -m pytest -m slow

attack: setup
	@.venv/bin/python scripts/attack.py

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
