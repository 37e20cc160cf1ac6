# Everything a person or a script asks of this repository. `make help` lists it.
# Each target sets up what it needs: its own environment in .venv, at the versions of requirements.lock.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A Python of your choice: make install PYTHON=/opt/python3.13/bin/python3
PYTHON ?=
# Further arguments for the tool that a target runs: make test ARGS='-k checksum'
ARGS ?=
# Test workers: one for each core. WORKERS=0 runs the tests in one process, as a debugger wants it.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install serve test test-lowest test-newest fuzz torture check format docs \
	bench bench-before bench-memory bench-beside bench-sweep bench-hang bench-crowd soak lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install: $(STAMP)  ## everything into .venv, at the locked versions

# `exec`: the server gets the signals itself, so Ctrl-C is its own clean stop and not a failed recipe.
serve: $(STAMP)  ## run the server: http://127.0.0.1:8080/files, stores in storage/ (TUSSERVER_PORT=9000 make serve)
	@exec $(BIN)/python -m tusserver serve $(ARGS)

test: $(STAMP)  ## run the tests (ARGS='-k checksum')
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# What stands on other packages. The rest of the tests asks other programs (browsers, proxies, foreign clients, kernels), and
# those do not change with a version of ours; or it kills servers and asks the disk, which takes minutes.
STANDING := $(addprefix tests/server/test_,compat.py wire.py protocol.py recvfile.py recvfile_parsed.py heads.py trailers.py \
	sockets.py logs.py) tests/web tests/conformance tests/cli tests/service tests/test_app.py tests/test_assembly.py \
	tests/settings \
	--ignore tests/service/test_upload_machine.py

test-lowest: .venv-lowest/.installed  ## run what stands on other packages at the lowest versions that pyproject.toml allows
	@.venv-lowest/bin/python -m pytest -n $(WORKERS) -m 'not slow' -p no:cacheprovider $(STANDING) tests/asgi $(ARGS)

test-newest: .venv-newest/.installed  ## run the same on the newest Python of this machine
	@.venv-newest/bin/python -m pytest -n $(WORKERS) -m 'not slow' -p no:cacheprovider $(STANDING) $(ARGS)

# SEED=… says the same things again; EXAMPLES are for each property.
fuzz: $(STAMP)  ## look for requests that break the server or are read in two ways (EXAMPLES=20000 SEED=1)
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "seed $$seed: SEED=$$seed make fuzz does the same"; \
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/python -m pytest tests/server/test_fuzz.py -n $(WORKERS) -o timeout=0 \
		--hypothesis-seed=$$seed $(ARGS)

torture: $(STAMP)  ## kill a server under load for ten minutes, check every byte (ARGS='--minutes 1 --workers 4 --seed 7')
	@$(BIN)/python -m tests.torture $(ARGS)

check: $(STAMP)  ## format, lint, types, contracts of imports, spelling: what .ci/run checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMP)  ## format the code, and fix what can be fixed by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## write the documents that follow from the code (docs/settings.md)
	@$(BIN)/python docs/pages.py

bench: $(STAMP)  ## measure tusserver beside its peers (half an hour; ARGS='--quick --rounds 3': four minutes)
	@$(BIN)/python -m bench $(ARGS)

bench-before: $(STAMP)  ## compare with an earlier commit, in turn (ARGS=HEAD~1; ten minutes)
	@$(BIN)/python -m bench.before $(ARGS)

bench-memory: $(STAMP)  ## measure the server's peak memory under load (takes minutes and some GiB of disk)
	@$(BIN)/python bench/memory.py $(ARGS)

bench-beside: $(STAMP)  ## measure what fast clients keep of their speed beside 5,000 slow ones (ten minutes)
	@$(BIN)/python -m bench.beside $(ARGS)

bench-sweep: $(STAMP)  ## measure sweeps of a million overdue ids and of 50,000 uploads (minutes)
	@$(BIN)/python -m bench.sweep $(ARGS)

bench-crowd: $(STAMP)  ## measure the memory of thousands of clients that stop in the middle (minutes)
	@$(BIN)/python -m bench.crowd $(ARGS)

bench-hang: $(STAMP)  ## measure how the server answers while its disk hangs (a minute)
	@$(BIN)/python -m bench.hang $(ARGS)

soak: $(STAMP)  ## an hour of everything at once, to see that nothing grows (ARGS='--minutes 5')
	@$(BIN)/python -m bench.soak $(ARGS)

# One resolution for every Python and platform we support. Pins stay unless pyproject.toml forces a change; ARGS=--upgrade moves them to the newest versions.
# The lowest are what pyproject.toml says; what it does not name is the newest that goes with it.
lock: | $(BIN)/python  ## write both lock files again from pyproject.toml (ARGS=--upgrade)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --all-extras \
		--universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
		--quiet --output-file requirements.lock $(ARGS)
	$(BIN)/uv pip compile pyproject.toml --group test --all-extras --resolution lowest-direct \
		--universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
		--quiet --output-file requirements-lowest.lock $(ARGS)

clean:  ## remove what was installed and cached; uploads in storage/ stay
	rm -rf $(VENV) .venv-lowest .venv-newest .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is younger than both files when .venv holds what they ask for. --no-build-isolation: the build
# backend is one of the locked packages, so that nothing at all comes in at a version of the day.
$(STAMP): pyproject.toml requirements.lock | $(BIN)/python
	@echo 'Installing into $(VENV) (once) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-lowest/.installed: requirements-lowest.lock
.venv-newest/.installed: requirements.lock
.venv-%/.installed: pyproject.toml .ci/pythons.py | $(BIN)/python
	@python=$$($(BIN)/python .ci/pythons.py $*) && echo "Making .venv-$* with $$("$$python" --version)" && \
		"$$python" -m venv --clear .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r $(filter %.lock,$^)
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The first of these that is new enough and complete. Debian and Ubuntu ship Python without the part that
# makes environments (ensurepip), hence a message of its own for that.
$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		if "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
			echo "Making $(VENV) with $$("$$python" --version)"; \
			exec "$$python" -m venv --clear $(VENV); \
		fi; \
		bare="$$bare $$python"; \
	done; \
	if [ -n "$$bare" ]; then \
		echo "Found$$bare, but without the modules venv and ensurepip." >&2; \
		echo "Install them (Debian, Ubuntu: apt install python3-venv) and run make again." >&2; \
	else \
		echo "tusserver needs Python 3.11 or newer and found none$(if $(PYTHON), at $(PYTHON))." >&2; \
		echo "Install one, or name it: make install PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1
