# The project's daily commands; `make` lists them. Variables: PROMPT and ARGS for the demo, MODEL for a
# GGUF file of your own, CARGO_TARGET_DIR (Cargo's) for where builds go.

PROMPT ?= Why is the sky blue?
ARGS ?=
# Values reach recipes through the environment, so that quotes and spaces in them are harmless.
export PROMPT MODEL
# A shell that has not read rustup's profile still finds Cargo.
# Mesa complains on stderr where this is unset, as it is outside a desktop session.
export XDG_RUNTIME_DIR ?= /tmp
export PATH := $(PATH):$(HOME)/.cargo/bin

BENBEN := cargo run --release --quiet --bin benben --
FIND_MODEL := $${MODEL:-$$(.ci/fetch-model)}
EXAMPLES := hello compare_kv frame_loop turns many_at_once

.PHONY: help demo web web-build web-test amd-test checked-test test examples fmt lint doc bench bench-docs peers peers-web clean tools driver

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools driver ## build, fetch a small model and let it answer PROMPT
	@model="$(FIND_MODEL)" && cargo build --release && \
		$(BENBEN) run "$$model" -p "$$PROMPT" $(ARGS)

PORT ?= 8080

web: web-build ## build for the browser, fetch a small model and serve both on this machine (needs Node.js)
	@model="$(FIND_MODEL)" && node web/serve.mjs "$$model" $(PORT)

web-build: tools ## build web/wasm and the npm package web/pkg
	@.ci/build-web

web-test: web-build driver ## run the browser build in Chromium and compare it with the native one (needs Node.js)
	@.ci/test-web

amd-test: tools driver ## compile the shaders for AMD's GPUs, without one
	@.ci/test-amd

checked-test: tools driver ## run the kernels' tests with wgpu's checks of indices (many minutes)
	BENBEN_CHECKED=1 cargo test --lib kernels::

# Without a network the model may be out of reach: the tests that need none still run.
test: tools driver ## run every test, then every example, then those for AMD and in a browser
	@if model="$(FIND_MODEL)"; then \
		BENBEN_MODEL="$$model" cargo test && $(MAKE) --no-print-directory examples MODEL="$$model"; \
	else \
		cargo test && \
		printf '\n*** SKIPPED: no model, so its tests and the examples did not run ***\n\n' >&2; \
	fi
	@$(MAKE) --no-print-directory amd-test
	@if .ci/setup-browser && .ci/setup-wasm; then \
		BENBEN_MODEL="$(FIND_MODEL)" $(MAKE) --no-print-directory web-test; \
	else \
		printf '\n*** SKIPPED: no browser, no Node.js or no WebAssembly target, so the browser tests did not run ***\n\n' >&2; \
	fi

examples: tools driver ## run every example
	@model="$(FIND_MODEL)" && for example in $(EXAMPLES); do \
		echo "example $$example"; \
		cargo run --quiet --example "$$example" -- "$$model" || exit 1; \
	done

fmt: ## format the code
	cargo fmt

lint: tools ## check formatting and run Clippy, warnings refused
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

doc: tools ## build the documentation, warnings refused
	RUSTDOCFLAGS="$$RUSTDOCFLAGS -D warnings" cargo doc --no-deps

bench: tools driver ## measure prefill and decode speed; ARGS="--suite quick" measures batches
	@model="$(FIND_MODEL)" && cargo build --release && $(BENBEN) bench "$$model" $(ARGS)

MACHINE ?= lavapipe

bench-docs: tools driver ## measure this MACHINE for docs/benchmarks.md (needs Node.js; many minutes)
	@model="$(FIND_MODEL)" && cargo build --release && \
		(cd benches/peers && npm install --loglevel=error) && \
		benches/docs.sh "$$model" "$(MACHINE)"

peers: tools driver ## measure llama.cpp's Vulkan back end beside benben (needs Node.js; minutes)
	@model="$(FIND_MODEL)" && cargo build --release && \
		(cd benches/peers && npm install --loglevel=error) && \
		node benches/peers/llama_cpp.mjs "$$model" $(ARGS)

peers-web: web-build ## measure wllama and transformers.js beside benben in Chromium (needs Node.js; minutes)
	@model="$(FIND_MODEL)" && (cd benches/peers && npm install --loglevel=error) && \
		node benches/peers/browser.mjs "$$model" $(ARGS)

clean: ## delete what builds made
	cargo clean
	rm -rf web/pkg web/wasm web/bindgen/node_modules web/test/node_modules benches/peers/node_modules

tools:
	@.ci/setup-tools

driver:
	@.ci/setup-driver
