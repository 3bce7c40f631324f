// observe: adds one decode query's attention to the sums of all live rows: A and B fade, then A gains the weighted
// attention and B the weight.
// logits [sets * heads, capacity] f32, scaled, by table index · lse [sets * heads] f32
// book: its tables, see kv_row.rs
// grid (count / 64, sets); one lane per live row.

struct Params {
    heads: u32,     // query heads that share one table
    capacity: u32,
    count: u32,
    fade: f32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> book: array<u32>;

fn add(at: u32, value: f32) {
    book[at] = bitcast<u32>(params.fade * bitcast<f32>(book[at]) + value);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.count { return; }
    let table = id.y * 4u * params.capacity;
    let slot = min(book[table + id.x], params.capacity - 1u);
    var attention = 0.0;
    for (var head = id.y * params.heads; head < (id.y + 1u) * params.heads; head++) {
        attention += exp(logits[head * params.capacity + id.x] - lse[head]);
    }
    add(table + 2u * params.capacity + slot, params.weight * attention / f32(params.heads));
    add(table + 3u * params.capacity + slot, params.weight);
}
