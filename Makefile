# molehill: every task sets itself up (Debian packages, .venv, native build) and re-runs quickly.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
SO     := native/_native.abi3.so
FUZZ_RUNS ?= 200000
# Test processes at a time: one more than there are cores, for the tests in namespaces mostly wait.
JOBS ?= $(shell expr $$(nproc) + 1)

# Bytecode is kept, whatever the environment says: the tests start hundreds of Python processes.
export PYTHONDONTWRITEBYTECODE :=

# Debian packages by purpose. A Debian Python needs its headers and venv; another one brings its own.
DEB_BUILD := gcc libc6-dev libssl-dev $(if $(filter /usr/bin/%,$(PYTHON)),python3.11-dev python3.11-venv)
DEB_LAB   := dbus-daemon faketime iproute2 iputils-ping procps nftables wireguard-tools wireguard-go iperf3 ethtool tcpdump strace shadowsocks-libev
DEB_SAN   := clang libclang-rt-14-dev
# The package is for Debian's own Python, whichever one is used here.
DEB_DEB   := gcc libc6-dev libssl-dev python3-dev python3-venv
DEB_BOOT  := debootstrap lintian
# A minimal Debian to boot: what the package depends on, and what the tests look with.
BOOT      := build/boot/root
BOOT_DEBS := systemd-sysv,dbus,iproute2,kmod,curl,python3,libssl3
# Another one, with the managers of resolvers that Debian has.
MANAGERS  := build/boot/managers

# Installs what is missing when root; else says in one line what to run.
define need
@missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" = 0 ]; then echo "installing" $$missing; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
  else echo "Debian packages are missing, run: sudo apt-get install --no-install-recommends" $$missing; exit 1; fi; fi
endef

.PHONY: help demo leaklab test test-slow test-boot deb proofs check bench bench-compare fuzz asan tsan coverage ci clean setup setup-build setup-lab setup-san
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: setup-build $(BIN)/molehill $(SO) ## .venv with pinned dependencies and the native module

setup-build:
	$(call need,$(DEB_BUILD))

setup-lab:
	$(call need,$(DEB_LAB))

setup-san:
	$(call need,$(DEB_SAN))

$(VENV)/.dependencies: requirements.lock | setup-build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	@touch $@

$(SO): $(wildcard native/src/*.[ch] native/cdef/*.h) native/_build_native.py $(VENV)/.dependencies
	$(BIN)/python native/_build_native.py
	@touch $@

# The editable install gives the two commands; the module itself is the one built in place.
$(BIN)/molehill: pyproject.toml setup.py $(VENV)/.dependencies $(SO)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(SO)

demo: setup setup-lab ## walk the tunnel through its states with probes and a capture, then measure it (sudo, 1 minute)
	@$(BIN)/python -m tests.netns.demo $(DEMO)

test: setup setup-lab ## the test suite, JOBS files at a time (sudo for the parts that need namespaces)
	@$(BIN)/python -m pytest -q -m "not slow" -p no:benchmark -n $(JOBS) --dist loadgroup $(TESTS)

test-slow: setup setup-lab ## the long tests: rekey in real time, 1 GiB transfers, big random samples
	@$(BIN)/python -m pytest -q -m slow --timeout=1200 --ignore=tests/boot $(TESTS)

leaklab: setup setup-lab ## try to make it leak: attacks, faults, 10,000 transitions (sudo, 15 minutes; LEAKLAB="--short")
	@mkdir -p build
	@$(BIN)/molehill leaklab --html build/leaklab.html --json build/leaklab.json $(LEAKLAB)

deb: ## the Debian package, dist/molehill_VERSION_ARCH.deb
	$(call need,$(DEB_DEB))
	@packaging/deb/build

$(MANAGERS): BOOT_DEBS := $(BOOT_DEBS),systemd-resolved,network-manager,libpam-systemd
$(BOOT) $(MANAGERS):
	$(call need,$(DEB_BOOT))
	@rm -rf $@.new && mkdir -p $(@D)
	@debootstrap --variant=minbase --include=$(BOOT_DEBS) bookworm $@.new >$(@D)/debootstrap.log
	@mv $@.new $@

test-boot: setup setup-lab deb $(BOOT) $(MANAGERS) ## the package on a real systemd: boot, crash, upgrade, remove (sudo, 10 minutes)
	@$(BIN)/python -m pytest -q -m slow --timeout=300 $(or $(TESTS),tests/boot)

proofs: setup ## every enforcer equal to the document for every packet (z3), and every mutant caught (10 minutes)
	@$(BIN)/python -m tests.proofs $(PROOFS)

check: setup ## lint, format, types, layers, C warnings
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -3
	@$(MAKE) -s -C tests/native cwarn

bench: setup setup-lab ## compare with wireguard-go and the no-crypto build, side by side (sudo; BENCH="--short", --help)
	@$(BIN)/python -m bench.endtoend $(BENCH)

bench-compare: setup setup-lab ## measure again and compare with what `make bench` saved (sudo; FILE=saved.json)
	@$(BIN)/python -m bench.endtoend.compare $(FILE) $(BENCH)

fuzz: setup setup-san ## every parser that sees outside bytes, under ASan + UBSan (FUZZ_RUNS executions each)
	@$(MAKE) -s -C tests/native fuzz FUZZ_RUNS=$(FUZZ_RUNS)
	@for f in tests/fuzz/fuzz_*.py; do echo "$$f"; $(BIN)/python $$f -runs=$(FUZZ_RUNS) -close_fd_mask=1 >build/$$(basename $$f).log 2>&1 \
	  || { tail -30 build/$$(basename $$f).log; exit 1; }; done

asan: setup-build setup-san ## native tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) -s -C tests/native asan plain

tsan: setup-build setup-san ## native tests under ThreadSanitizer
	@$(MAKE) -s -C tests/native tsan

coverage: setup setup-lab ## the test suite with branch coverage
	@$(BIN)/coverage run -m pytest -q -m "not slow" && $(BIN)/coverage report --skip-covered

ci: setup-build setup-lab setup-san ## what .ci/run does: install, check, sanitizers, test
	@$(MAKE) --no-print-directory -j$$(nproc) --output-sync=line check asan tsan
	@$(MAKE) -s test

clean: ## remove everything that was built
	rm -rf $(VENV) build dist *.egg-info native/_native.c native/*.so native/*.o .mypy_cache .ruff_cache .hypothesis .coverage
