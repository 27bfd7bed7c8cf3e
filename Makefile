# One command per wish; each installs the Debian packages that it needs where rights allow, else says which.

CARGO ?= cargo

.PHONY: help run demo cluster rolling test fix bench bench-cluster build crash stale cluster-test sim regress isolation sysbench

ROUNDS ?= 200
SECONDS ?= 300
SEEDS ?= 200

help: ## Shows this.
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

run: build ## Shows the main job on a scratch Postgres (or DATABASE_URL), then leaves Ripen up.
	@scripts/demo.sh --stay

demo: build ## The same, and ends.
	@scripts/demo.sh

cluster: build ## Three nodes on this machine: the leader is killed with -9 under load, and nothing is lost.
	@scripts/cluster.sh

rolling: build ## Three nodes restarted one by one under load: no statement fails, nothing is lost. RIPEN_NEW=path upgrades them on the way.
	@scripts/rolling.sh

build:
	@scripts/setup.sh run
	$(CARGO) build --release --locked --bin ripen

test: ## Checks everything and changes nothing; what CI runs.
	@scripts/test.sh

fix: ## Repairs what can be repaired: format, lints.
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: ## Benchmarks against plain Postgres and PgBouncer, in one run.
	@scripts/setup.sh bench
	$(CARGO) build --release --locked --bin ripen
	@scripts/bench.sh

bench-cluster: build ## Three nodes against one against plain Postgres: rates, CPU, bytes on the network, memory, and how long writes pause when the leader is killed.
	@scripts/setup.sh bench
	@scripts/bench-cluster.sh

crash: ## Kills Ripen and Postgres under load, ROUNDS times, and looks for what was lost.
	$(CARGO) build --locked --bin ripen
	RIPEN_ROUNDS=$(ROUNDS) $(CARGO) test --locked -p ripen-tests --test nothing_lost -- --nocapture --test-threads=1

stale: ## Mixes cached, queued and passed-through statements for SECONDS and looks for anything stale.
	$(CARGO) build --locked --bin ripen
	RIPEN_SECONDS=$(SECONDS) $(CARGO) test --locked -p ripen-tests --test never_stale -- --nocapture --test-threads=1

cluster-test: ROUNDS = 20
cluster-test: ## Three nodes and every kind of fault, ROUNDS times each: looks for what was lost or stale, and tells how long clients waited. Root can cut networks, too.
	@scripts/setup.sh test
	$(CARGO) build --locked --bin ripen
	RIPEN_ROUNDS=$(ROUNDS) $(CARGO) test --locked -p ripen-tests --test cluster -- --nocapture --test-threads=1

sim: ## Simulates whole clusters with every kind of fault, from SEEDS seeds (a number, or 200..300); one that breaks a promise says how to see it again.
	SIM_SEEDS=$(SEEDS) $(CARGO) test --workspace --locked --test sim -- every_promise_is_kept --exact --nocapture

regress: ## PostgreSQL's own regression suite on plain Postgres and through Ripen; what differs. Takes long; not part of test.
	@scripts/setup.sh run
	$(CARGO) build --locked --bin ripen
	@scripts/regress.sh $(MODES)

isolation: ## PostgreSQL's own isolation tests on plain Postgres and through Ripen; what differs. Takes a quarter of an hour; not part of test. ONLY="eval-plan-qual nowait" runs these.
	@scripts/setup.sh run
	$(CARGO) build --locked --bin ripen
	@scripts/isolation.sh $(ONLY)

sysbench: build ## sysbench's oltp_read_write on Postgres and through Ripen. OPTIONS="--range-selects=off" are sysbench's.
	@scripts/sysbench.sh $(OPTIONS)
