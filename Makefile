# The developer's commands; CI calls the same ones. Each works on a fresh clone of a Debian 12 machine,
# as root or with sudo, and installs what it needs, saying so.

PYTHON := .venv/bin/python

# Whole processes are started and timed here: let Python keep compiled modules, as an installed wheel does.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test drill drill-repeat lint bench bench-fleet docs fuzz packages pyz clean

demo: .venv/ready  ## the main job end to end on real images
	$(PYTHON) tools/demo.py

test: .venv/ready lint  ## everything CI runs
	$(PYTHON) tools/generate_reference.py --check
	$(PYTHON) -m coverage erase
	$(PYTHON) -m pytest -n 2 --dist worksteal --cov --cov-report=
	$(PYTHON) -m coverage report

drill: .venv/ready  ## the rollback drills in QEMU, with a console log for each in drill-results
	$(PYTHON) tools/drill.py

TIMES := 20
LOAD := 0
drill-repeat: .venv/ready  ## the QEMU drills of `make test` TIMES times in a row, LOAD busy processes a core beside
	$(PYTHON) tools/drill_repeat.py --times $(TIMES) --load $(LOAD)

lint: .venv/ready  ## ruff, mypy and the layering
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/ready  ## the ratios that the documents quote
	$(PYTHON) tools/bench.py
	$(PYTHON) tools/bench_install.py

bench-fleet: .venv/ready  ## a million nodes, a million log lines, and the guard over a thousand seeds
	$(PYTHON) tools/bench_fleet.py

SECONDS := 60
fuzz: .venv/ready  ## look for input that breaks a parser, SECONDS for each
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(PYTHON) tools/fuzz.py --seconds $(SECONDS)

docs: .venv/ready  ## write the generated reference pages anew
	$(PYTHON) tools/generate_reference.py

ARCHITECTURE = $(shell dpkg --print-architecture)
packages: .venv/ready  ## dist/*.deb: the Debian packages updog and repo-tools
	$(PYTHON) tools/packages.py build --architecture $(ARCHITECTURE)

pyz: .venv/ready  ## dist/signpost.pyz: signpost as one file, for rescue systems
	$(PYTHON) tools/make_pyz.py dist/signpost.pyz

.venv/ready: pyproject.toml tools/system-packages tools/bootstrap
	tools/bootstrap

clean:
	rm -rf .venv .cache
