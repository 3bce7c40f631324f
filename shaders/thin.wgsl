// thin: drops the least attended rows of one block from a table of live rows, keeping the order of the others.
// before: [ rows before | block            | rows after | free ]      `old` holds block and rows after
// after:  [ rows before | kept | rows after | dropped   | free ]      `book` is rewritten from `start` on
// book [4, capacity] u32: slot of the i-th live row, then by slot: position, A, B (f32 bits) · old [count - start]
// one workgroup of 64 lanes; a lane per row of the block (at most 64), then all lanes for the rows after it.

struct Params {
    capacity: u32,
    start: u32,
    block: u32,
    keep: u32,
    count: u32,
    slope: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> old: array<u32>;
@group(0) @binding(2) var<storage, read_write> book: array<u32>;

var<workgroup> keys: array<u32, 64>;
var<workgroup> kept: array<u32, 64>;

/// The row's score as a key that orders like it; NaN counts as 0, as in the selection of a prompt's rows.
fn score(slot: u32) -> u32 {
    let a = bitcast<f32>(book[2u * params.capacity + slot]);
    let b = bitcast<f32>(book[3u * params.capacity + slot]);
    let bits = bitcast<u32>(a + params.slope * b);
    return select(0u, bits, bits <= 0x7f800000u);
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    let slot = old[min(lane, params.block - 1u)];
    let key = score(min(slot, params.capacity - 1u));
    keys[lane] = key;
    workgroupBarrier();
    var better = 0u;
    for (var j = 0u; j < params.block; j++) {
        better += u32(keys[j] > key || (keys[j] == key && j < lane));
    }
    let keep = better < params.keep;
    kept[lane] = u32(keep);
    workgroupBarrier();

    let dropped = params.block - params.keep;
    if lane < params.block {
        var kept_before = 0u;
        for (var j = 0u; j < lane; j++) { kept_before += kept[j]; }
        let dropped_at = params.count - dropped + lane - kept_before;
        book[select(dropped_at, params.start + kept_before, keep)] = slot;
    }
    for (var i = params.block + lane; i < params.count - params.start; i += 64u) {
        book[params.start + i - dropped] = old[i];
    }
}
