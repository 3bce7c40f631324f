#!/bin/sh
# Measures everything that docs/benchmarks.md shows of this machine, and renders
# the tables. Run it where nothing else runs.
#
#   benches/docs.sh MODEL NAME      leaves benches/runs/NAME/*.json
set -eu
cd "$(dirname "$0")/.."
[ $# -eq 2 ] || { echo "which model, and what is this machine called? benches/docs.sh MODEL NAME" >&2; exit 2; }
model=$1 runs=benches/runs/$2
benben=${CARGO_TARGET_DIR:-target}/release/benben
mkdir -p "$runs"

bench() {
    name=$1
    shift
    echo "docs.sh: $name" >&2
    "$benben" bench "$model" --json="$runs/$name.json" "$@"
}

bench one
bench kernels --kernels --prompt-tokens 2048
bench batch --suite batch --prompts 128
bench depth --suite depth --caches rows-512 --answer 128 --cell-seconds 900
bench share --suite share --step-tokens 16384 --compare 1 --cell-seconds 600
if [ -d benches/peers/node_modules ]; then
    # Into a variable first: a run that fails must not leave half a file.
    report=$(node benches/peers/llama_cpp.mjs "$model" --runs 3 --json)
    printf '%s\n' "$report" >"$runs/llama_cpp.json"
else
    echo "docs.sh: SKIPPED llama.cpp: run \`make peers\` once before" >&2
fi
node benches/tables.mjs
