# VashSender's commands. They need python3.11 or newer, python3-venv, make and git, and install everything else.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help demo demo-postgresql stop test test-more test-compiled test-fast test-deploy lint chaos bench bench-smtp bench-compare bench-page bench-events bench-feedback compiled uncompiled release compose compose-demo docs pictures clean packages-for-tests

BIN := .venv/bin
STEP := @scripts/step
PIP := $(BIN)/pip --disable-pip-version-check --quiet --no-input
WORKERS ?= 3
ARGS ?=
POSTGRESQL_DEMO := var/on-postgresql
TEST_PACKAGES := rabbitmq-server postgresql pgbouncer opendkim chromium prometheus
# A compiled class has no __slots__, which test_sender_state reads.
COMPILED_TESTS := tests/unit --ignore=tests/unit/test_sender_state.py tests/chaos $(addprefix tests/integration/test_, $(addsuffix .py, \
    at_once erasure_while_sending limits_api loop_lag memory outages poison prewarm provider_limits provider_shares races rates \
    relay_groups sd_notify spread_ledger stopping suppressed_at_once tls trouble_of_a_few wakeups)) \
    $(wildcard tests/integration/test_sender_*.py tests/integration/test_smtp_*.py)
TYPED := services shared cli tests bench scripts

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## start everything on this machine, send the example campaign, compare ledger and mailbox
	@$(BIN)/vashsender demo $(ARGS)

demo-postgresql: .venv/.installed ## the demo on a private PostgreSQL instead of SQLite
	$(STEP) "postgresql" $(BIN)/python -m cli.local.packages postgresql
	@url=$$($(BIN)/python -m cli.local.postgres start $(POSTGRESQL_DEMO)/postgresql) && \
	    VASHSENDER_VAR_DIR=$(POSTGRESQL_DEMO) VASHSENDER_DATABASE_URL=$$url $(BIN)/vashsender demo $(ARGS)

stop: .venv/.installed ## stop everything the demo started
	@$(BIN)/vashsender stop
	@if [ -e $(POSTGRESQL_DEMO)/postgresql/cluster/postmaster.pid ]; then VASHSENDER_VAR_DIR=$(POSTGRESQL_DEMO) $(BIN)/vashsender stop && \
	    $(BIN)/python -m cli.local.postgres stop $(POSTGRESQL_DEMO)/postgresql; fi

test: uncompiled lint packages-for-tests ## all checks, and the tests on a real broker and real databases: at most 15 minutes
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not more" $(ARGS)

test-more: uncompiled .venv/.developing packages-for-tests ## tests with other mail servers, broken servers and long runs: at most 25 minutes
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m more $(ARGS)

test-compiled: compiled packages-for-tests ## the same tests of units, senders, SMTP and faults on compiled modules
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not more" $(COMPILED_TESTS) $(ARGS)

test-fast: uncompiled .venv/.developing ## style and unit tests, in a minute
	$(STEP) "style" $(BIN)/ruff check .
	@$(BIN)/pytest -n $(WORKERS) tests/unit $(ARGS)

test-deploy: .venv/.developing packages-for-tests ## image, compose, Kubernetes, systemd, RabbitMQ 4: as root on Debian 12, by hand
	@$(BIN)/pytest tests/deploy $(ARGS)

lint: .venv/.developing ## style, types, import contracts, migrations
	$(STEP) "style" $(BIN)/ruff check .
	$(STEP) "format" $(BIN)/ruff format --check .
	$(STEP) "types" $(BIN)/mypy $(TYPED:%=-p %)
	$(STEP) "import contracts" $(BIN)/lint-imports
	$(STEP) "migrations" $(BIN)/python -m scripts.check_migrations

chaos: .venv/.developing packages-for-tests ## every fault on every ledger, by hand (make test-more runs a selection)
	@$(BIN)/python -m tests.chaos.run $(ARGS)

compiled: .venv/.developing uncompiled ## compile what every email passes through, which saves a sender a quarter of its CPU; takes 2 minutes
	$(STEP) "system packages" $(BIN)/python -m cli.local.packages gcc python3-dev
	$(STEP) "compiled modules" env VASHSENDER_COMPILE=1 $(BIN)/python setup.py --quiet build_ext --inplace --build-temp var/compiled --build-lib var/compiled/lib

uncompiled: ## run the sources again
	@find services shared -name '*.so' -delete

bench: .venv/.developing packages-for-tests ## emails per second and CPU per email, on SQLite and PostgreSQL
	@$(BIN)/python -m bench.campaign $(ARGS)

bench-smtp: .venv/.developing ## the SMTP engine alone, compared with Postfix's smtp-source
	@$(BIN)/python -m bench.smtp $(ARGS)

bench-compare: .venv/.developing packages-for-tests ## ours beside four other ways to send, by recipients, senders and size
	@$(BIN)/python -m bench.compare $(ARGS)

bench-events: .venv/.developing packages-for-tests ## events a second out: to a webhook, to the exchange, to a reader
	@$(BIN)/python -m bench.events_out $(ARGS)

bench-page: .venv/.developing packages-for-tests ## the cost of each page with 1,000,000 recipients on PostgreSQL
	@$(BIN)/python -m bench.page $(ARGS)

docs: .venv/.developing var/docs/environment/.made ## the docs as a site in var/docs/site, with every link checked
	@$(BIN)/python -m scripts.docs_site $(ARGS)

pictures: .venv/.developing packages-for-tests ## every picture of the docs again, in 10 minutes: page, terminal, dashboards, scaling; needs npm
	@$(BIN)/python -m scripts.screenshots
	@$(BIN)/python -m scripts.recordings
	@$(BIN)/python -m scripts.dashboards.pictures
	@$(BIN)/python -m scripts.sizing

compose: ## everything in containers on this Docker host; makes settings, secrets and a key if there are none
	@deploy/compose/start $(ARGS)

compose-demo: compose ## the example campaign in those containers, to their mailbox
	@deploy/compose/demo

release: .venv/.developing ## source archive, wheel and image of the last commit in dist/, checked; uploads nothing
	@$(BIN)/python -m scripts.release $(ARGS)

bench-feedback: .venv/.developing packages-for-tests ## reports a second in, events a second out, and what a subscriber costs
	@$(BIN)/python -m bench.feedback $(ARGS)
	@$(BIN)/python -m bench.events_out
	@$(BIN)/python -m bench.subscriber

clean: uncompiled ## remove everything the commands above made, including the demo's data and .venv
	@if [ -x $(BIN)/vashsender ]; then $(MAKE) --no-print-directory stop; fi
	rm -rf .venv var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

packages-for-tests: .venv/.installed
	$(STEP) "system packages" $(BIN)/python -m cli.local.packages $(TEST_PACKAGES)

# The virtual environment, with a stamp for each step. Run-time and development packages are separate; hashes are checked.

.venv/.made:
	$(STEP) "environment" scripts/make-venv .venv
	@touch $@

.venv/.run-time: .venv/.made requirements/run.txt
	$(STEP) "dependencies" $(PIP) install --require-hashes -r requirements/run.txt
	@touch $@

.venv/.installed: .venv/.run-time pyproject.toml
	$(STEP) "vashsender" $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/.developing: .venv/.installed requirements/dev.txt
	$(STEP) "development tools" $(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

var/docs/environment/.made: requirements/docs.txt
	@mkdir -p var/docs
	$(STEP) "tools for docs" $(BIN)/python -m venv --clear var/docs/environment
	$(STEP) "dependencies" var/docs/environment/bin/pip --disable-pip-version-check --quiet --no-input install --require-hashes -r requirements/docs.txt
	@touch $@
