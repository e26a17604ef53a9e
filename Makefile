# What one does with KisFlow. Only Go is needed, and for `make generate` protoc.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

GO       ?= go
BIN      := $(CURDIR)/bin
TOOLS    := $(BIN)/tools
PACKAGES ?= ./...

.PHONY: help build release test test-short demo cluster-demo bench bench-nexmark bench-model bench-cluster soak faults lint format generate check-generated clean

help: ## Show this.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

build: ## Build bin/kisnode and bin/kisctl.
	mkdir -p $(BIN)
	$(GO) build -o $(BIN)/ ./cmd/kisnode ./cmd/kisctl

# The flags of build are those of test, so that each package is compiled once; a release is static.
release: ## Build static binaries without paths of this machine.
	mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/ ./cmd/kisnode ./cmd/kisctl

# Everything, with the race detector; that needs a C compiler, and where there is none the tests run without it.
# TESTFLAGS adds flags: make test TESTFLAGS='-run Crash'.
test: build ## Run all tests with the race detector; the last line counts them.
	@internal/tools/servers.sh
	@race=-race; if ! command -v "$$($(GO) env CC)" >/dev/null; then race=; echo "no C compiler: WITHOUT the race detector"; fi; \
	set -x; $(GO) test $$race -timeout 15m -json $(TESTFLAGS) $(PACKAGES) | $(GO) run ./internal/testreport

test-short: ## Run the quick tests, without the race detector.
	$(GO) test -short -timeout 5m -json $(TESTFLAGS) $(PACKAGES) | $(GO) run ./internal/testreport

demo: build ## Run the orders example: 100,000 orders, a kill -9 half way, every key checked.
	$(GO) run ./examples/orders/demo $(DEMOFLAGS)

cluster-demo: build ## Run the orders example on three nodes: one is killed, one paused, one taken out of service.
	$(GO) run ./examples/orders/demo -cluster $(DEMOFLAGS)

bench: build ## Print the figures of speed, with the bare program beside them.
	$(GO) run ./bench/kisbench $(BENCHFLAGS)

bench-nexmark: ## Print the figures of the Nexmark queries, and whether they reach their aims.
	$(GO) run ./bench/nexmark/figures $(BENCHFLAGS)

bench-model: ## Print what timers, windows and functions cost, and then the figures of bench-nexmark.
	$(GO) run ./bench/modelbench
	$(GO) run ./bench/nexmark/figures $(BENCHFLAGS)

bench-cluster: ## Print the figures of clusters: failover, moves, processor time, recovery, idle.
	$(GO) run ./bench/clusterbench $(BENCHFLAGS)

soak: build ## Kill the node 1,000 times, do 2,000 faults, and run 20 times the seeds of the simulation: hours.
	KISFLOW_SOAK=1 KISFLOW_FAULTS=$${KISFLOW_FAULTS:-2000} $(GO) test -count=1 -timeout 12h -json $(TESTFLAGS) ./actors/... ./test/... | $(GO) run ./internal/testreport

faults: build ## Break what nodes stand on, 200 times for each kind of rig, from KISFLOW_SEED: an hour.
	KISFLOW_FAULTS=$${KISFLOW_FAULTS:-200} $(GO) test -count=1 -timeout 4h -json $(TESTFLAGS) ./test/cluster | $(GO) run ./internal/testreport

lint: $(TOOLS)/staticcheck ## Check format, go vet and staticcheck, and the Kubernetes manifests.
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted (make format):"; echo "$$bad"; exit 1; fi
	$(GO) vet $(PACKAGES)
	$(TOOLS)/staticcheck $(PACKAGES)
	cd internal/tools && $(GO) run ./manifests $(CURDIR)/docs/guide/deploy/kubernetes.yaml

format: ## Format all Go files.
	gofmt -w .

generate: ## Make the Go code of proto/ again.
	internal/tools/generate.sh

check-generated: ## Check that the generated code is what generate makes.
	internal/tools/generate.sh --check

clean: ## Remove bin/.
	rm -rf $(BIN)

# The tools are a module of their own, so that the product does not depend on them; their versions are in
# its go.mod.
$(TOOLS)/staticcheck: internal/tools/go.mod internal/tools/go.sum
	mkdir -p $(TOOLS)
	cd internal/tools && GOBIN=$(TOOLS) $(GO) install tool
	@touch $(TOOLS)/*
