# One verb per job. Each sets up what it needs, from a bare clone with Python 3.11 or later and make.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: demo test lint bench bench-sqs prove terraform-docs wheel lock localstack standin clean

demo: .venv/core $(if $(URL),.venv/dev)    ## See real work done, with a crash in the middle. URL=sqs://local for elsewhere.
	@$(if $(URL),CLOUDQ_URL=$(URL)) $(BIN)/cloudq demo

test: .venv/dev     ## Every test.
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/dev     ## Types, style, and which floor may import which.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=$$(echo examples/* | tr ' ' ':') $(BIN)/mypy examples/*/*.py
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	@! grep -rnE 'boto|botocore|google\.|pubsub|servicebus|\bsqs\b|import azure' cloudq --include='*.py' \
		|| (echo "the core has a provider's name in it"; exit 1)

bench: .venv/dev    ## What the local provider costs.
	$(BIN)/python benchmarks/local/throughput.py
	$(BIN)/python benchmarks/local/wake.py

bench-sqs: .venv/dev .peers/ready    ## What SQS costs and loses, beside bare boto3 and three peers. Takes half an hour.
	$(BIN)/python benchmarks/sqs/run.py --peers .peers/bin/python
	$(BIN)/python benchmarks/loss/run.py --peers .peers/bin/python

.peers/ready: requirements/peers.txt
	@$(PYTHON) -m venv .peers
	@.peers/bin/python -m pip --disable-pip-version-check -qq install -r requirements/peers.txt
	@touch $@

prove: .venv/prove  ## The full proof, recorded in docs/proof; goes on where it was cut off. PARTS="storm power" for some of it.
	cd tests && ../$(BIN)/python -m proofs $(PARTS) $(if $(URL),--url $(URL))

terraform-docs: .venv/dev    ## Write what is generated in terraform/: limits, the modules' test data, the tables of their READMEs.
	$(BIN)/python tests/terraform/generated.py

wheel: .venv/dev    ## Build the wheel from the sdist, and try it in an environment of its own, away from the source.
	$(BIN)/python tests/packaging/try_wheel.py

lock: .venv/dev     ## Write requirements/ anew.
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --group build -o requirements/core.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --group prove -o requirements/prove.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--group pyproject.toml:amqp -o requirements/amqp.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--group pyproject.toml:terraform -o requirements/terraform.txt

clean:              ## Remove what the other verbs made.
	rm -rf .venv .standin .localstack .peers .prove build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || (echo "cloudq needs Python 3.11 or later; set PYTHON=/path/to/python3"; exit 1)
	@$(PYTHON) -m venv .venv || (echo "python's venv module is missing: on Debian, apt install python3-venv"; exit 1)

.venv/core: .venv/bin/python requirements/core.txt pyproject.toml
	@echo "setting up .venv (once, some seconds) ..."
	@$(PIP) install --require-hashes -r requirements/core.txt
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

.venv/dev: .venv/core requirements/dev.txt requirements/amqp.txt
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --require-hashes -r requirements/amqp.txt || echo "without a C compiler there is no stand-in for Service Bus"
	@touch $@

# Beside the others, because its pins are old. Half a gigabyte, and optional: without it, its tests are skipped.
localstack: .localstack/ready    ## Set up LocalStack, against which the SQS adapter is run too.

.localstack/ready: requirements/localstack.txt
	@$(PYTHON) -m venv .localstack
	@.localstack/bin/python -m pip --disable-pip-version-check -qq install -r requirements/localstack.txt
	@touch $@

# Beside the others, because its pins are old. A third of a gigabyte, and optional: without it, its tests are skipped.
standin: .standin/ready    ## Set up what the Terraform modules are tried with, beside terraform itself.

.standin/ready: requirements/terraform.txt
	@$(PYTHON) -m venv .standin
	@.standin/bin/python -m pip --disable-pip-version-check -qq install --no-deps --require-hashes -r requirements/terraform.txt
	@touch $@

.venv/prove: .venv/dev requirements/prove.txt
	@$(PIP) install --require-hashes -r requirements/prove.txt
	@touch $@
