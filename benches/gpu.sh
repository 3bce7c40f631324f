#!/bin/sh
# Measures benben on a big NVIDIA GPU in less than ten minutes, beside transformers in PyTorch.
#
#   benches/gpu.sh pack DIR           gathers in DIR what the other machine needs: this script, the release
#                                     binary, the Vulkan loader, the peer's script
#   DIR/gpu.sh run OUT [--tiny]       measures, and leaves JSON, HTML and text in OUT
#
# That machine needs a driver with Vulkan and, for the peer, a `python3` with torch and transformers; no
# network and no compiler. Every part has a time limit and leaves what it measured until then. --tiny takes
# tiny models, so that the script itself can be tried on any adapter.
set -u
here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'gpu.sh: %s\n' "$*" >&2; }
usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }

pack() {
    binary=${BENBEN:-${CARGO_TARGET_DIR:-$here/../target}/release/benben}
    loader=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*=> //p' | head -n 1)
    [ -x "$binary" ] || { say "there is no $binary; run: cargo build --release"; exit 1; }
    [ -n "$loader" ] || { say "there is no Vulkan loader here; install libvulkan1"; exit 1; }
    mkdir -p "$1" && cp -L "$here/gpu.sh" "$here/peers/transformers.py" "$binary" "$loader" "$1"
}

# A loader needs a manifest of the driver; containers often bring the driver's libraries alone.
find_driver() {
    for manifest in /etc/vulkan/icd.d/nvidia_icd.json /usr/share/vulkan/icd.d/nvidia_icd.json \
        /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json; do
        [ -e "$manifest" ] || continue
        export VK_DRIVER_FILES="${VK_DRIVER_FILES:-$manifest}"
        return
    done
    has_nvidia || return
    library='{"library_path": "libGLX_nvidia.so.0", "api_version": "1.3.0"}'
    printf '{"file_format_version": "1.0.0", "ICD": %s}\n' "$library" >"$out/nvidia_icd.json"
    export VK_DRIVER_FILES="${VK_DRIVER_FILES:-$out/nvidia_icd.json}"
}

has_nvidia() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

# part NAME SECONDS COMMAND...: runs a part with its output in OUT/NAME.txt as well as here.
part() {
    name=$1 seconds=$2
    shift 2
    say "$name, at most $seconds s"
    started=$(date +%s)
    { timeout "$seconds" "$@" 2>&1; echo "status $?" >"$out/.status"; } | tee "$out/$name.txt"
    say "$name: $(cat "$out/.status") after $(($(date +%s) - started)) s"
}

# suite NAME SECONDS SHAPE FLAG...: a suite of benben on a synthetic model.
suite() {
    name=$1 seconds=$2 shape=$3
    shift 3
    part "$name-$shape" "$seconds" "$benben" bench --synthetic "$shape" --suite "$name" --cell-seconds 60 \
        "$@" $memory --json="$out/$name-$shape.json" --html "$out/$name-$shape.html"
}

peer() {
    shape=$1 seconds=$2
    shift 2
    if ! python3 -c 'import torch, transformers' 2>/dev/null; then
        say "SKIPPED: this python3 has no torch and transformers, so there is no peer"
        return
    fi
    part "transformers-$shape" "$seconds" python3 "$here/transformers.py" --shape "$shape" "$@" --json
    # Warnings precede the object.
    sed -n '/^{/,$p' "$out/transformers-$shape.txt" >"$out/transformers-$shape.json"
}

run() {
    out=$1
    mkdir -p "$out" || exit 1
    out=$(cd "$out" && pwd)
    benben=$here/benben
    [ -x "$benben" ] || { say "run it from what \`gpu.sh pack DIR\` gathered"; exit 1; }
    export LD_LIBRARY_PATH="$here${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
    find_driver
    memory=
    if has_nvidia; then
        # WebGPU does not tell a GPU's memory. What plans do not count, pipelines above all, gets 4 GiB.
        free=$(nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits | head -n 1)
        memory="--memory $((free - 4096))MiB"
        nvidia-smi >"$out/nvidia-smi.txt"
    fi
    if [ "${2:-}" = --tiny ]; then
        part doctor 120 "$benben" doctor
        peer tiny 150 --batch 4 --prompt-tokens 64 --max-tokens 16
        suite paper 60 tiny --batches 4 --prompts 64 --answer 16
        part kernels-tiny 60 "$benben" bench --synthetic tiny --kernels --json="$out/kernels-tiny.json"
        suite batch 60 tiny --batches 1,3 --prompts 64 --answer 16
        suite depth 60 tiny --prompts 64,600 --answer 40 --caches full,rows-80
        suite share 60 tiny --batches 2 --prompts 600 --answer 40
    else
        part doctor 60 "$benben" doctor
        # Both in f16, one after the other on the same machine.
        peer llama2-13b 80
        suite paper 120 llama2-13b --weights f16 --compare 1 --step-tokens 2048
        part kernels-llama3-8b 40 "$benben" bench --synthetic llama3-8b --kernels --prompt-tokens 4096 \
            --json="$out/kernels-llama3-8b.json"
        suite batch 100 llama3-8b --batches 1,4,16,64 --compare 2 --step-tokens 2048
        suite depth 90 llama3-8b --compare 1 --step-tokens 2048
        suite share 90 llama3-8b --compare 1 --step-tokens 2048
    fi
    rm -f "$out/.status"
}

case "${1:-} $#" in
    "pack 2") pack "$2" ;;
    "run 2" | "run 3") run "$2" "${3:-}" ;;
    *) usage ;;
esac
