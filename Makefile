# make demo, make test: each sets everything up by itself. Needs Python 3.11+, make and a C toolchain.
.PHONY: setup demo test testnet campaign lint types lock spec mutants

PYTHON := .venv/bin/python
DIGITS := 0 1 2 3 4 5 6 7 8 9
YEARS := $(foreach ten,$(DIGITS),$(foreach one,$(DIGITS),.campaign/years-$(ten)$(one).json))
THOUSANDS := $(foreach ten,$(DIGITS),$(foreach one,$(DIGITS),$(ten)$(one)))
WANTED := $(foreach thousand,$(THOUSANDS),$(if $(wildcard .campaign/worlds-$(thousand).json),,$(thousand)))
HUNDREDS := $(foreach thousand,$(WANTED),$(foreach last,$(DIGITS),.campaign/hundred-$(thousand)$(last).json))
PURE_TESTS := $(sort $(wildcard tests/consensus/test_*.py tests/storage/test_*.py))

setup: .venv/.ready

.venv/.ready: requirements-dev.txt pyproject.toml .ci/setup
	@./.ci/setup

# The main job: nine nodes, three fires, every byte back, an audit. Leaves nothing running.
demo: .venv/.ready
	@$(PYTHON) -m testnet.cli demo

# Nine nodes until Ctrl-C; prints what to try next.
testnet: .venv/.ready
	@$(PYTHON) -m testnet.cli testnet up --home .testnet

lint: .venv/.ready
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports

types: .venv/.ready
	@.venv/bin/mypy
	@.venv/bin/pyright

# Every check and test; .ci/run calls it.
test: lint types
	@.venv/bin/pytest

# The executable specification (docs/spec/README.md): EFFORT is sample, full or campaign (long, 5 GB).
EFFORT := full
SPEC_SOURCES := $(wildcard docs/spec/package*.json) docs/spec/.npmrc .ci/spec-tools

spec: .venv/.ready .build/spec/.ready
	@$(PYTHON) docs/spec/check.py --effort $(EFFORT)

.build/spec/.ready: $(SPEC_SOURCES)
	@./.ci/spec-tools

# The S3 clients that tests and examples run; the suite makes them by itself.
.build/s3-clients/.ready: requirements-clients.txt .ci/s3-clients .venv/.ready
	@./.ci/s3-clients

# Everything that guards agreement, for long, one part at a time: interrupted, it goes on where it stopped.
# Begin anew with `rm -r .campaign`.
campaign: $(PURE_TESTS:%=.campaign/%.done) .campaign/trouble.done .campaign/flood.done .campaign/power.done .campaign/requests.done .campaign/consistency.done mutants .campaign/twins.done .campaign/crash_points.done $(YEARS) $(HUNDREDS)
	@$(PYTHON) -m testnet.simulation.report .campaign

# A hundred thousand worlds of a hundred heights, a hundred at a time, five minutes each; what breaks is in the report, with
# its command. An earlier campaign's files of a thousand (worlds-*.json) count, their seeds are not run again.
.campaign/hundred-%.json: .venv/.ready
	@mkdir -p $(@D)
	$(PYTHON) -m testnet.cli simulate --seeds 100 --first-seed $*00 --heights 100 --json > $@.part || true
	@test -s $@.part && mv $@.part $@

# Ten node-years: 100 files of 20 worlds of nine nodes, each with five hours of heartbeats after a storm and its healing.
.campaign/years-%.json: .venv/.ready
	@mkdir -p $(@D)
	$(PYTHON) -m testnet.cli simulate --seeds 20 --first-seed $*000000 --heights 3 --storm 3 --idle 293 --json > $@.part || true
	@test -s $@.part && mv $@.part $@

# Nine real nodes hurt for long, alone on a quiet machine: killed 50 times, voting within 5 s, 2,000 bad messages.
.campaign/trouble.done: tests/integration/test_trouble.py .venv/.ready
	@mkdir -p $(@D)
	GRANDEST_KILLS=50 GRANDEST_VOTING_SECONDS=5 GRANDEST_BAD_FRAMES=2000 .venv/bin/pytest -n0 -s $<
	@touch $@

# Power cuts on one, three, nine disks in turn, 60 of them: nothing acknowledged is lost, nothing signed twice.
.campaign/power.done: tests/integration/test_power_cuts.py .venv/.ready
	@mkdir -p $(@D)
	GRANDEST_POWER_CUTS=60 .venv/bin/pytest -n0 -s $<
	@touch $@

# A member's keys in a flooder's hands for a minute, alone on a quiet machine: four blocks of five still come.
.campaign/flood.done: tests/integration/test_stolen_keys.py .venv/.ready
	@mkdir -p $(@D)
	GRANDEST_FLOOD_SECONDS=60 GRANDEST_FLOOD_RATIO=0.8 .venv/bin/pytest -n0 -s $<
	@touch $@

# A gateway and 100,000 requests that were changed by chance, 10,000 with keys that may not.
.campaign/requests.done: tests/node/gateway/test_mutated_requests.py tests/node/gateway/test_scopes.py .venv/.ready
	@mkdir -p $(@D)
	GRANDEST_REQUESTS=100000 GRANDEST_ATTEMPTS=10000 .venv/bin/pytest -n0 $(filter %.py,$^)
	@touch $@

# 10,000 writes that all gateways show at once, beside a node that stands still for seconds.
.campaign/consistency.done: tests/integration/test_s3_consistency.py .venv/.ready
	@mkdir -p $(@D)
	GRANDEST_TRIALS=10000 .venv/bin/pytest -n0 $<
	@touch $@

# Members that run twice: a million scenarios.
.campaign/twins.done: .venv/.ready
	@mkdir -p $(@D)
	$(PYTHON) -m testnet.simulation.twins 4 1 --count 500000 > $@.part
	$(PYTHON) -m testnet.simulation.twins 9 2 --count 500000 >> $@.part
	@mv $@.part $@

# A node that fails at every write and flush of a thousand runs: 175,000 worlds, an hour.
.campaign/crash_points.done: .venv/.ready
	@mkdir -p $(@D)
	$(PYTHON) -m testnet.simulation.crash_points --runs 1000 > $@.part
	@mv $@.part $@

# Deliberate faults, one at a time; writes docs/mutants.md. What was tried is kept in .campaign/mutants.
mutants: .venv/.ready
	@$(PYTHON) -m tests.mutants

.campaign/%.done: % .venv/.ready
	@mkdir -p $(@D)
	GRANDEST_HYPOTHESIS_PROFILE=campaign .venv/bin/pytest -n0 $<
	@touch $@

# The locks, from requirements*.in: for every supported Python and platform, with hashes, naming no index.
lock: .venv/.ready
	@for name in requirements requirements-dev requirements-clients; do \
		.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
			--no-emit-index-url --no-annotate $$name.in --output-file $$name.txt || exit 1; \
	done
