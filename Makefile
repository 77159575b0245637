# Two commands: `make run` measures, `make test` checks everything.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: run helpers install test fmt lint doc help

# Arguments after the scenario, e.g. `make run ARGS="--duration 2s"`.
SCENARIO ?= netperf-strict
ARGS ?=
PREFIX ?= /usr/local
CARGO_TARGET_DIR ?= target

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

run: ## Build and run the main job; needs cargo and a C toolchain
	@source scripts/toolchain.sh && cargo run --release $$RELEASE_CONFIG --bin iommu-bench -- run $(SCENARIO) $(ARGS)

helpers: ## Build the programs that `tables` and `store export` start
	@source scripts/toolchain.sh && cargo build --release $$RELEASE_CONFIG \
	    --package iommu-structures --package iommu-results-export --bins

install: helpers ## Build and install the command and its helpers under PREFIX (/usr/local)
	@source scripts/toolchain.sh && cargo build --release $$RELEASE_CONFIG --bin iommu-bench
	@install -D --target-directory="$(DESTDIR)$(PREFIX)/bin" \
	    $(addprefix $(CARGO_TARGET_DIR)/release/,iommu-bench iommu-bench-structures iommu-bench-export)

test: ## Install what the tests need, then run every check
	@scripts/test setup

fmt: ## Format the sources
	@source scripts/toolchain.sh && cargo fmt --all

lint: ## Lints only, warnings are errors
	@source scripts/toolchain.sh && cargo clippy --workspace --all-targets -- -D warnings

doc: ## API documentation under target/doc
	@source scripts/toolchain.sh && cargo doc --workspace --no-deps
