# Two commands: `make run` measures, `make test` checks everything.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: run test fmt lint doc help

# Arguments after the scenario, e.g. `make run ARGS="--duration 2s"`.
SCENARIO ?= netperf-strict
ARGS ?=

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

run: ## Build and run the main job; needs cargo and a C toolchain
	@source scripts/toolchain.sh && cargo run --release $$RELEASE_CONFIG --bin iommu-bench -- run $(SCENARIO) $(ARGS)

test: ## Install what the tests need, then run every check
	@scripts/setup-test-deps
	@scripts/test

fmt: ## Format the sources
	@source scripts/toolchain.sh && cargo fmt --all

lint: ## Lints only, warnings are errors
	@source scripts/toolchain.sh && cargo clippy --workspace --all-targets -- -D warnings

doc: ## API documentation under target/doc
	@source scripts/toolchain.sh && cargo doc --workspace --no-deps
