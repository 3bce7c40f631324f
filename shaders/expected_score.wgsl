// expected_score: each row's share of the attention to come, from the logits of every query head.
// logits [heads, count] · v [prefix + count, kv_heads, dim] · out [sets, columns] f32
// grid (columns / 256, sets); one lane per column. Every workgroup adds up the whole softmax, which is little
// beside what it took to get the logits.
#import across

struct Params {
    set_heads: u32,     // query heads that share one set of scores
    group_heads: u32,   // query heads that share one KV head
    value_stride: u32,  // kv_heads * dim / 4
    dim: u32,           // in vec4
    prefix: u32,        // rows before the block's
    count: u32,
    columns: u32,
    forced: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

const LARGEST = 0x1.fffffep+127f;

/// The lengths of a row's value vectors, averaged over the KV heads of a set.
fn value_norm(row: u32, head_set: u32) -> f32 {
    let heads = params.set_heads / params.group_heads;
    var sum = 0.0;
    for (var head = head_set * heads; head < (head_set + 1u) * heads; head++) {
        let values = (params.prefix + row) * params.value_stride + head * params.dim;
        var squares = 0.0;
        for (var d = 0u; d < params.dim; d++) { squares += dot(v[values + d], v[values + d]); }
        sum += sqrt(squares);
    }
    return sum / f32(heads);
}

// Logits that a lane fetches before it uses the first of them.
const MANY = 8u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * 256u + lane;
    let row = min(column, params.columns - 1u);
    var attention = 0.0;
    for (var n = 0u; n < params.set_heads; n++) {
        let first = (group.y * params.set_heads + n) * params.count;
        var largest = logits[first];
        let last = first + params.count - 1u;
        for (var i = lane; i < params.count; i += MANY * 256u) {
            var some = array<f32, MANY>();
            for (var k = 0u; k < MANY; k++) { some[k] = logits[min(first + i + k * 256u, last)]; }
            for (var k = 0u; k < MANY; k++) { largest = max(largest, some[k]); }
        }
        largest = max_across(lane, largest);
        var sum = 0.0;
        for (var i = lane; i < params.count; i += MANY * 256u) {
            var some = array<f32, MANY>();
            for (var k = 0u; k < MANY; k++) { some[k] = logits[min(first + i + k * 256u, last)]; }
            for (var k = 0u; k < MANY; k++) {
                if i + k * 256u < params.count { sum += exp(some[k] - largest); }
            }
        }
        attention += exp(logits[first + row] - largest) / sum_across(lane, sum);
    }
    if column >= params.columns { return; }
    let score = attention / f32(params.set_heads) * value_norm(row, group.y);
    out[group.y * params.columns + column] = select(score, LARGEST, column < params.forced);
}
