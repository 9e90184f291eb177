# Everyday commands. Each installs its requirements except cargo, node, npm and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
# Whole builds: incremental compilation makes our own crates take a seventh more. The loop of an edit has it.
export CARGO_INCREMENTAL ?= 0

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 16

.PHONY: demo
demo: setup ## build Edgeway and serve the built-in demonstration on 127.0.0.1:8080
	WARNINGS=allow scripts/linted build --workspace --bin edgeway --locked
	exec target/debug/edgeway demo

# Further parts that run beside the end-to-end tests, as in CI: BESIDE='next systemd'.
BESIDE ?=

# Whoever may install packages installs those of the tests beside the build.
.PHONY: test
test: $(if $(filter 0,$(shell id -u)),setup,setup-tests) ## check format and lints, run unit tests and end-to-end tests with real apps and a browser
	@$(MAKE) --no-print-directory -j2 test-apps build-tests
	@scripts/slow-crates
	CARGO=scripts/linted scripts/run-tests $(BESIDE)

# Commit whose build a hunt compares with this one: BEFORE=HEAD~1.
BEFORE ?=
# Tests that draw more cases in a hunt, against nginx, Pingora or rules of RFCs: HUNT='import_nginx drivers'.
HUNT ?= $(if $(BEFORE),drivers,bodies cache_as_nginx cache_floods cache_key config::every drivers forwarding_lines http2 images import_nginx locations next_proxy npm_start presets purge_races refusals rfc9111 rules secrets smuggling spellings static_files visitors)

.PHONY: hunt
hunt: setup-tests ## draw cases against other programs or the build of a commit (BEFORE=) for as long as it takes, with fresh seeds (HUNT=)
	@$(MAKE) --no-print-directory -j2 apps build-tests
	before=$$([ -z '$(BEFORE)' ] || scripts/build-before '$(BEFORE)') && \
	    EDGEWAY_BEFORE=$$before EDGEWAY_HUNT=1 scripts/linted test --workspace --locked --test it -- --test-threads 2 $(HUNT)
ifeq ($(BEFORE),)
	EDGEWAY_HUNT=1 scripts/linted test --workspace --locked --lib
	EDGEWAY_TEST_DRIVER=pingora scripts/linted test --workspace --locked --test it -- --skip drivers::
endif

.PHONY: steady
steady: setup-tests ## run the end-to-end tests five times beside load (TIMES=); one failure fails it
	@$(MAKE) --no-print-directory -j2 apps build-tests
	CARGO=scripts/linted scripts/steady $(or $(TIMES),5)

.PHONY: test-all
test-all: export EDGEWAY_TEST_ALL = 1
test-all: test ## the same, and what takes longer or needs rights: older versions of Next.js, namespaces, the drills; before a release
	$(MAKE) doc
	$(MAKE) drills
	$(MAKE) test-systemd
	$(MAKE) test-portable
	scripts/test-next
	$(MAKE) test-packages
	$(MAKE) test-image

.PHONY: doc
doc: setup ## build the documentation of the code; a broken link is an error
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --lib --locked

# Cargo cannot reach the job server of a make that runs several targets, and would warn of that.
.PHONY: build-tests
build-tests:
	$(CARGO) fmt --all --check
	MAKEFLAGS= scripts/part build scripts/linted test --workspace --no-run --locked --lib --bins --examples --test it --test systemd --test drills --timings

.PHONY: setup
setup: ## check the tools and install missing Debian packages
	@scripts/setup

.PHONY: setup-tests
setup-tests: ## as setup, with the requirements of the end-to-end tests: a browser, Redis, openssl, pebble, other gateways, Prometheus, Python, a load generator
	@scripts/part setup scripts/setup chromium-headless-shell openssl pebble curl python3 python3-venv redis-server nginx haproxy caddy prometheus prometheus-alertmanager nghttp2-client

.PHONY: setup-drills
setup-drills: ## as setup, with the requirements of the drills: a load generator, Redis, testssl.sh
	@scripts/setup nghttp2-client openssl testssl.sh redis-server wrk

.PHONY: apps
apps: ## install and build the Node and Python programs of the end-to-end tests
	@scripts/part apps tests/apps/build.sh

.PHONY: test-apps
test-apps: setup-tests
	@$(MAKE) --no-print-directory apps

.PHONY: pictures
pictures: setup ## make the images of README: the demonstration, `edgeway top`, `edgeway explain`
	@scripts/setup chromium-headless-shell fonts-dejavu-core
	npm ci --silent --prefix tests/browser
	WARNINGS=allow scripts/linted build --workspace --bin edgeway --locked
	node scripts/pictures.mjs target/debug/edgeway

.PHONY: schema
schema: ## regenerate conf/schema.json
	$(CARGO) run --quiet --locked -- schema > conf/schema.json

.PHONY: metrics-page
metrics-page: ## regenerate docs/metrics.md
	WRITE_METRICS_PAGE=1 $(CARGO) test --quiet --locked --test it metrics_page

.PHONY: config-page
config-page: schema ## regenerate docs/configuration-reference.md
	WRITE_CONFIG_PAGE=1 $(CARGO) test --quiet --locked --test it config_page

.PHONY: test-systemd
test-systemd: setup ## test the units under a real systemd user manager: restarts, crashes, upgrades
	@scripts/test-systemd

.PHONY: test-portable
test-portable: setup-tests apps ## build as for macOS (`--cfg edgeway_portable`), and test proxy, dev, run, check and explain
	@scripts/test-portable

# Destination folders; DESTDIR stages the installation in another folder.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(SYSCONFDIR)/systemd/system
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions

.PHONY: install
install: ## build a release and install the program, its systemd units and an initial configuration
	scripts/build-dist
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' UNITDIR='$(UNITDIR)' ZSHDIR='$(ZSHDIR)' scripts/install target/dist/edgeway

# A program that is built already, to make packages of it: make dist BINARY=target/debug/edgeway
BINARY ?=

.PHONY: dist
dist: ## make the packages in target/packages: Debian, npm, archive, checksums
	@[ -n '$(BINARY)' ] || scripts/build-dist
	@scripts/dist $(or $(BINARY),target/dist/edgeway)

.PHONY: pgo
pgo: ## record what load does in the program, for the builds of `make install` and `make dist`; before a release
	@scripts/setup nginx-light wrk nghttp2-client openssl python3 llvm-$$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
	@scripts/pgo

.PHONY: test-packages
test-packages: ## make packages, and install, upgrade and remove them in a Debian 12 of their own; needs root
	@scripts/setup mmdebstrap lintian binutils
	@scripts/test-packages $(BINARY)

.PHONY: test-image
test-image: ## build the container image, and run it without rights and with a read-only root; needs root
	@scripts/setup buildah podman crun binutils
	@scripts/test-image $(BINARY)

.PHONY: compare
compare: setup ## measure Edgeway, bare Pingora and nginx side by side
	scripts/build-dist --example bare
	load-tests/compare

# The gateway that the profiles measure: BINARY, or a build of the dist profile.
PROFILE = load-tests/profile --edgeway $(or $(BINARY),target/dist/edgeway)
MINUTES ?= 30
REPEATS ?= 3

.PHONY: setup-profiles
setup-profiles:
	@scripts/setup nghttp2-client openssl redis-server python3
	@[ -n '$(BINARY)' ] || scripts/build-dist

.PHONY: profiles
profiles: setup-profiles ## run the load profiles but soak, about ten minutes: users in steps, hits and misses, a peak, a flood
	$(PROFILE) all

.PHONY: soak
soak: setup-profiles ## 30 minutes of mixed traffic (MINUTES=): memory, errors and latency stay as they are
	$(PROFILE) soak --minutes $(MINUTES)

.PHONY: benchmarks
benchmarks: setup-profiles ## all profiles REPEATS times (3), then soak, and write the results into docs/benchmarks.md
	$(PROFILE) all soak --repeats $(REPEATS) --out load-tests/results/benchmarks || [ $$? = 1 ]
	load-tests/profile --publish docs/benchmarks.md load-tests/results/benchmarks/results.json

.PHONY: drills
drills: setup-drills apps ## run the drills: killed instances, large bodies, idle WebSockets, a hanging upstream, floods, testssl.sh
	$(CARGO) test --release --features jemalloc --locked --test drills
