// accumulate: adds one decode query's attention to the accumulators of the generated rows that may be thinned.
// logits [heads, stride] f32, scaled, by table index · lse [heads] f32 · book [4, capacity] u32: slot of the
// i-th live row, then by slot: position, A, B (f32 bits)
// grid ((count - first) / 64); one lane per live row.

struct Params {
    heads: u32,
    stride: u32,
    capacity: u32,
    first: u32,
    count: u32,
    prompt: u32,
    block: u32,
    position: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> book: array<u32>;

fn add(at: u32, value: f32) {
    book[at] = bitcast<u32>(bitcast<f32>(book[at]) + value);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = params.first + id.x;
    if i >= params.count { return; }
    let slot = min(book[i], params.capacity - 1u);
    let after = book[params.capacity + slot] + 1u;
    if after < params.prompt { return; }
    // The first position whose query counts is the one after the block's last column.
    let block = (after - params.prompt) / params.block;
    let start = params.prompt + block * params.block + params.block - 1u;
    if params.position < start { return; }
    var attention = 0.0;
    for (var head = 0u; head < params.heads; head++) {
        attention += exp(logits[head * params.stride + i] - lse[head]);
    }
    attention /= f32(params.heads);
    add(2u * params.capacity + slot, attention);
    add(3u * params.capacity + slot, f32(params.position - start) * attention);
}
