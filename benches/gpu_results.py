"""Says in a line or two what a part of gpu.sh measured.

    python gpu_results.py OUT PART
"""

import json
import pathlib
import sys


def load(name):
    """What a step of that name left: a report of benben's, or what a peer printed after its warnings; else nothing."""
    for path in (out / f"{name}.json", out / f"{name}.txt"):
        text = path.read_text() if path.exists() else ""
        if "{" in text:
            return json.loads(text[text.index("{") :])
    return None


def rate(value):
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def times(ours, theirs):
    return f"{rate(ours)} tok/s, {rate(theirs)}, ratio {ours / theirs:.2f}" if ours and theirs else "-"


def beside_llama_cpp(name, title):
    ours = load(f"{name}-benben")
    for peer, what in [("llama.cpp", "llama.cpp"), ("llama.cpp-no-coopmat2", "llama.cpp without coopmat2")]:
        theirs = load(f"{name}-{peer}")
        if not ours or not theirs:
            yield f"{title}: {'benben' if not ours else what} was not measured"
            continue
        decode, prefill = (
            times(ours[figure], theirs[figure])
            for figure in ("decode_tokens_per_second", "prefill_tokens_per_second")
        )
        same = "" if theirs["adapter"] in ours["adapter"] else f"; NOT ONE ADAPTER: {theirs['adapter']}, {ours['adapter']}"
        yield f"{title}: benben, {what} ({theirs['layers_on_it']} layers on the GPU, matrix cores {theirs['matrix_cores']}): decode {decode}; prefill {prefill}{same}"


def cells(name):
    report = load(name)
    return {cell["cache"]: cell for cell in report["cells"]} if report else {}


def reason(cell):
    return None if cell.get("outcome") == "measured" else cell.get("reason", "was not measured")


def agreement(cell):
    same = cell.get("agreement") or {}
    if not same.get("sequences"):
        return ""
    wrong = f", {same['wrong']} WRONG" if same["wrong"] else ""
    return (
        f", {same['identical']} of {same['sequences']} answers the same as alone, {same['near_ties']} near ties{wrong} "
        f"(margin {same['largest_margin']:.1e}, explained {same['explained_margin']:.1e})"
    )


def part_8b():
    yield from beside_llama_cpp("8b", "8B Q4_0")


def part_small():
    for name, title in [("small-1b", "1B Q4_0"), ("small-135m", "135M Q4_0"), ("small-tiny", "tiny Q4_0")]:
        if list(out.glob(f"{name}-*")):
            yield from beside_llama_cpp(name, title)


def step(cell):
    """What a step records, where the cell has it."""
    work = cell.get("step")
    return f", {work['dispatches']:.0f} dispatches and {work['barriers']:.0f} barriers a step" if work else ""


def part_13b():
    peer = cells("13b-transformers").get("full", {})
    theirs = peer.get("new_tokens_per_second")
    if not theirs:
        yield "13B: transformers was not measured"
    else:
        yield f"13B: transformers {rate(theirs)} new tok/s (prefill {rate(peer.get('prefill_tokens_per_second'))}, decode {rate(peer.get('decode_tokens_per_second'))})"
    for weights in ("f16", "q4"):
        for cache, cell in cells(f"13b-{weights}").items():
            if reason(cell):
                yield f"13B, weights {weights}, {cache}: {reason(cell)}"
                continue
            new = cell["new_tokens_per_second"]
            ratio = f", ratio {new / theirs:.2f}" if theirs else ""
            yield (
                f"13B, weights {weights}, {cache}: {rate(new)} new tok/s{ratio} (prefill "
                f"{rate(cell['prefill_tokens_per_second'])}, decode {rate(cell['decode_tokens_per_second'])}, "
                f"KV {cell['kv_bytes'] / 1e9:.2f} GB{step(cell)}){agreement(cell)}"
            )


def part_depth():
    found = cells("depth")
    full = found.get("full", {}).get("decode_tokens_per_second")
    for cache, cell in found.items():
        at = f"depth, {cell['batch']} x {cell['prompt_tokens']} tokens (random rows, no prompt ran), {cache}"
        if reason(cell):
            yield f"{at}: {reason(cell)}"
            continue
        decode = cell["decode_tokens_per_second"]
        ratio = f", ratio to full {decode / full:.2f}" if full and decode else ""
        yield f"{at}: decode {rate(decode)} tok/s{ratio}, KV {cell['kv_bytes'] / 1e9:.3f} GB{step(cell)}"


def part_kernels():
    doctor = out / "doctor.txt"
    text = doctor.read_text().strip() if doctor.exists() else ""
    checks = [line.split()[0] for line in text.splitlines() if line.startswith(("  ok ", "  FAILED "))]
    yield f"doctor: {checks.count('ok')} checks passed, {checks.count('FAILED')} failed"
    for path in sorted(out.glob("kernels-*.json")):
        report = json.loads(path.read_text())
        for kernel in report["kernels"]:
            yield f"{report['model']}: {kernel['name']}: {kernel['ms']:.3f} ms, {kernel['share_of_ceiling']:.0%} of {kernel['ceiling']}"


def part_selection():
    pyramid, tsp = load("selection-pyramid"), load("selection-tsp")
    if not pyramid or not tsp:
        yield "selection: was not measured"
        return
    ours, other = (1e3 / report["decode_tokens_per_second"] for report in (pyramid, tsp))
    yield (
        f"selection: pyramid {ours:.3f} ms a token (KV {pyramid['kv_bytes'] / 1e6:.1f} MB), tsp, without running sums, "
        f"{other:.3f} ms (KV {tsp['kv_bytes'] / 1e6:.1f} MB): {1 - other / ours:.1%} of a token"
    )


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1])
    for line in globals()[f"part_{sys.argv[2]}"]():
        print(line)
