#!/bin/sh
# Measures benben on a big NVIDIA GPU in less than ten minutes, beside llama.cpp and transformers on the same card.
#
#   benches/gpu.sh pack DIR                  gathers in DIR what the other machine needs: this script and an archive
#   DIR/gpu.sh run OUT [--tiny] [PART...]    measures, and leaves JSON, HTML and text in OUT
#
# Parts, each of which ends with lines of results (also in OUT/results.txt); all of them unless some are named:
#   8b          an 8B model in Q4_0, one sequence, beside llama.cpp's Vulkan back end on the same file
#   13b         PyramidInfer's setting, 32 sequences of 512 + 256 tokens, beside transformers
#   depth       8 sequences after 32k tokens each, a full cache beside a small one
#   small       a 1B and a 135M model, beside llama.cpp
#   selection   what PyramidInfer's running sums and selections cost a token
#   kernels     benben doctor, and each hot kernel alone
#
# That machine needs an NVIDIA driver and, for the peers, a `python3` with numpy, torch and transformers; no network and
# no compiler. Every part has a time limit, all of them together SECONDS_IN_ALL (590), and what was measured until then stays.
# --tiny takes tiny models, so that the script itself can be tried on any adapter. BENBEN names another binary to pack,
# PYTHON another python3.
set -u
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

say() { printf 'gpu.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
usage() { sed -n '2,21s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# What NVIDIA's Vulkan driver loads beside the loader: without any of it the driver refuses to start.
LIBRARIES="libvulkan1 libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2 libx11-6 libxext6 libxcb1 libxau6 libxdmcp6
    libbsd0 libmd0"
# llama.cpp picks the best of these for what the GPU does not compute.
PROCESSORS="x64 haswell skylakex icelake sapphirerapids zen4"

pack() {
    binary=${BENBEN:-${CARGO_TARGET_DIR:-$here/../target}/release/benben}
    [ -x "$binary" ] || fail "there is no $binary; run: cargo build --release"
    work=$(mktemp -d) && mkdir -p "$1" "$work/all/lib" || exit 1
    strip -o "$work/all/benben" "$binary" || exit 1
    cp "$here/peers/transformers.py" "$here/peers/random_gguf.py" "$here/gpu_results.py" "$work/all" || exit 1
    libraries "$work"
    llama_cpp "$work"
    tar -C "$work/all" -cf - . | gzip -9 >"$1/gpu.tar.gz" && cp "$here/gpu.sh" "$1" || exit 1
    rm -rf "$work"
    du -h "$1"/* >&2
}

# libraries WORK: shared libraries of the packages, without what depends on the driver.
libraries() {
    mkdir "$1/debs" "$1/root"
    (cd "$1/debs" && apt-get download $LIBRARIES >/dev/null) || fail "apt-get cannot download $LIBRARIES"
    for deb in "$1"/debs/*.deb; do dpkg -x "$deb" "$1/root"; done
    find "$1/root" -path '*/lib/*' -name '*.so.*' -exec cp -P {} "$1/all/lib" \;
    cp -L "$1"/root/usr/lib/*/libvulkan.so.1 "$1/all/lib" || fail "there is no Vulkan loader in libvulkan1"
}

# llama_cpp WORK: llama.cpp as it is published for Node.js, and the program that measures it, without Node.js. The
# sources that the package brings along have the headers of the same version.
llama_cpp() {
    cp "$here/peers/package.json" "$1" || exit 1
    (cd "$1" && versions=$(sed -n 's/^ *"\(@\{0,1\}node-llama-cpp[^"]*\)": "\(.*\)",*$/\1@\2/p' package.json) &&
        rm package.json && npm install --silent --ignore-scripts --omit=optional --omit=peer $versions) ||
        fail "npm cannot install llama.cpp"
    bundle=$1/node_modules/node-llama-cpp/llama/gitRelease.bundle
    git clone --quiet "$bundle" "$1/source" 2>/dev/null || fail "there are no sources in $bundle"
    from=$1/node_modules/@node-llama-cpp/linux-x64-vulkan/bins/linux-x64-vulkan to=$1/all/llama.cpp
    mkdir "$to" && cp "$from"/libggml-base.so "$from"/libggml-vulkan.so "$from"/libggml.vulkan.*.so \
        "$from"/libllama.vulkan.*.so "$to" || exit 1
    for processor in $PROCESSORS; do cp "$from/libggml-cpu-$processor.so" "$to" || exit 1; done
    version=$(basename "$from"/libllama.vulkan.*.so .so) version=${version#libllama.vulkan.}
    cc -O3 -ffast-math -DLLAMA_CPP="\"$version\"" -I "$1/source/include" -I "$1/source/ggml/include" \
        "$here/peers/llama_cpp.c" -o "$to/llama_cpp" "$to"/libllama.vulkan.*.so "$to"/libggml.vulkan.*.so \
        "$to"/libggml-base.so -Wl,-rpath,'$ORIGIN' -Wl,--allow-shlib-undefined || fail "llama_cpp.c does not compile"
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

# step NAME SECONDS COMMAND...: runs a command with its output in OUT/NAME.txt and its errors in OUT/NAME.log.
step() {
    local name=$1 seconds=$2 started=$(date +%s) status
    shift 2
    local left=$((ends - started))
    [ "$left" -lt "$seconds" ] && seconds=$left
    [ "$seconds" -ge 3 ] || { say "SKIPPED: $name, no time is left"; return 1; }
    timeout "$seconds" "$@" >"$out/$name.txt" 2>"$out/$name.log"
    status=$?
    [ "$status" -eq 0 ] || { say "$name failed with status $status (124: too slow):"; tail -n 5 "$out/$name.log" >&2; }
    say "$name: $(($(date +%s) - started)) s"
    return "$status"
}

# one NAME SECONDS FLAG...: one sequence.
one() {
    local name=$1 seconds=$2
    shift 2
    step "$name" "$seconds" "$benben" bench "$@" $memory --json="$out/$name.json"
}

# suite NAME SECONDS FLAG...: batches of sequences.
suite() {
    local name=$1 seconds=$2
    shift 2
    step "$name" "$seconds" "$benben" bench "$@" --cell-seconds 60 --step-tokens 2048 $memory \
        --json="$out/$name.json" --html "$out/$name.html"
}

# beside_llama_cpp NAME SHAPE SECONDS PROMPT ANSWER: both on the same file, which is gone afterwards.
beside_llama_cpp() {
    local name=$1 shape=$2 seconds=$3 prompt=$4 answer=$5
    local file=$models/$shape.gguf
    step "$name-file" 60 "$python" "$program/random_gguf.py" "$shape" "$file" || return
    local peer="$program/llama.cpp/llama_cpp $program/llama.cpp $file $prompt $answer 3"
    step "$name-llama.cpp" "$seconds" $peer
    one "$name-benben" "$seconds" "$file" --prompt-tokens "$prompt" --max-tokens "$answer"
    step "$name-llama.cpp-no-coopmat2" "$seconds" env GGML_VK_DISABLE_COOPMAT2=1 $peer
    rm -f "$file"
}

transformers() {
    local name=$1 seconds=$2
    shift 2
    "$python" -c 'import torch, transformers' 2>/dev/null ||
        { say "SKIPPED: this python3 has no torch and transformers, so there is no peer"; return; }
    step "$name" "$seconds" "$python" "$program/transformers.py" "$@" --json
}

kernels() {
    step doctor 60 "$benben" doctor
    local shape weights
    for shape in $([ "$tiny" ] && echo tiny || echo llama3-8b llama2-13b); do
        weights=$([ "$shape" = llama2-13b ] && echo f16 || echo q4)
        one "kernels-$shape" 40 --synthetic "$shape" --weights "$weights" --kernels \
            --prompt-tokens "$([ "$tiny" ] && echo 64 || echo 4096)"
    done
}

eight() {
    if [ "$tiny" ]; then beside_llama_cpp 8b tiny 120 64 16; else beside_llama_cpp 8b llama3-8b 60 512 128; fi
}

thirteen() {
    local shape few
    if [ "$tiny" ]; then
        shape=tiny few="--batches 4 --prompts 600 --answer 16"
        transformers 13b-transformers 150 --shape tiny --batch 4 --prompt-tokens 600 --max-tokens 16
    else
        shape=llama2-13b few=
        transformers 13b-transformers 75 --shape llama2-13b
    fi
    # Both in f16, one after the other.
    suite 13b-f16 110 --synthetic "$shape" --suite paper --caches full,auto-20 --weights f16 --compare 1 $few
    suite 13b-q4 70 --synthetic "$shape" --suite paper --caches full,auto-20 --weights q4 --compare 1 $few
}

# Random rows stand in the place of the prompts', since 8 x 32k tokens of prompts would take minutes.
depth() {
    if [ "$tiny" ]; then
        suite depth 90 --synthetic tiny --suite batch --batches 2 --prompts 1500 --answer 40 --caches full,auto-12 --random-rows
    else
        suite depth 80 --synthetic llama3-8b --suite batch --batches 8 --prompts 32768 --answer 64 \
            --caches full,auto-12 --random-rows
    fi
}

small() {
    if [ "$tiny" ]; then beside_llama_cpp small-tiny tiny 120 64 16; return; fi
    beside_llama_cpp small-1b llama3.2-1b 20 512 128
    beside_llama_cpp small-135m smollm2-135m 20 512 128
}

# Under tsp as many rows live, and nothing is summed up or dropped while tokens are generated.
selection() {
    local few
    if [ "$tiny" ]; then few="--synthetic tiny --prompt-tokens 600 --max-tokens 64 --runs 2"
    else few="--synthetic llama3-8b --prompt-tokens 4096 --max-tokens 256 --runs 2"; fi
    one selection-pyramid 40 $few --kv pyramid --keep 0.6
    one selection-tsp 40 $few --kv tsp --keep 0.6
}

run() {
    out=$1
    shift
    tiny=
    [ "${1:-}" = --tiny ] && tiny=yes && shift
    local part
    for part in "$@"; do
        case $part in 8b | 13b | depth | small | selection | kernels) ;; *) usage ;; esac
    done
    ends=$(($(date +%s) + ${SECONDS_IN_ALL:-590}))
    mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
    [ -e "$here/gpu.tar.gz" ] || fail "run it from what \`gpu.sh pack DIR\` gathered"
    program=$(mktemp -d) && trap 'rm -rf "$program" "$models"' EXIT
    # Files in memory are written fastest, where there is enough.
    models=/dev/shm/benben-$$
    [ "$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 8000000 ] 2>/dev/null || models=$program/models
    mkdir "$models" && tar -C "$program" -xzf "$here/gpu.tar.gz" || exit 1
    benben=$program/benben
    export LD_LIBRARY_PATH="$program/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" GGML_VK_VISIBLE_DEVICES="${GGML_VK_VISIBLE_DEVICES:-0}"
    find_driver
    memory=
    if has_nvidia; then
        # WebGPU does not tell a GPU's memory. What plans do not count, pipelines above all, gets 4 GiB.
        free=$(nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits | head -n 1)
        memory="--memory $((free - 4096))MiB"
        nvidia-smi >"$out/nvidia-smi.txt"
    fi
    for part in ${*:-8b 13b depth small selection kernels}; do
        case $part in 8b) eight ;; 13b) thirteen ;; *) "$part" ;; esac
        "$python" "$program/gpu_results.py" "$out" "$part" | tee -a "$out/results.txt"
    done
}

case "${1:-}" in
    pack) [ $# -eq 2 ] || usage; pack "$2" ;;
    run) [ $# -ge 2 ] || usage; shift; run "$@" ;;
    *) usage ;;
esac
