// score: the attention that each key row gets from the most recent queries, from the softmax's log-sum-exp.
// q [count, heads, dim] · lse [count, heads] · k [rows, kv_heads, dim] · out [sets, columns] f32
// grid (columns / COLUMNS, sets), workgroup COLUMNS x SLICES: a lane takes one key row and every SLICES-th
// tile of eight queries; tails are masked. The queries are the same for all lanes of a slice.
// Heads and queries are added in a fixed order, without atomics, so a score has the same bits in every run.

struct Params {
    set_heads: u32,     // query heads that share one set of scores
    group_heads: u32,   // query heads that share one KV head
    query_stride: u32,  // heads * dim / 4
    key_stride: u32,    // kv_heads * dim / 4
    dim: u32,           // in vec4
    lse_stride: u32,    // heads
    prefix: u32,        // key rows before the first query's own
    count: u32,
    oldest: u32,        // first query row that scores
    columns: u32,
    forced: u32,
    scale: f32,
    weight: f32,        // of the oldest query
    weight_step: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const LARGEST = 0x1.fffffep+127f;

#ifdef SLICED
var<workgroup> partial: array<f32, #{COLUMNS} * #{SLICES}>;
#endif

/// Query rows row..row+4, clamped to the last one.
fn four(row: u32) -> vec4<u32> {
    return min(vec4(row) + vec4(0u, 1u, 2u, 3u), vec4(params.count - 1u));
}

fn dots(at: vec4<u32>, key: vec4<f32>) -> vec4<f32> {
    return vec4(dot(q[at.x], key), dot(q[at.y], key), dot(q[at.z], key), dot(q[at.w], key));
}

/// What four queries pay to the key row `column`.
fn attention(row: u32, head: u32, column: u32, logits: vec4<f32>) -> f32 {
    let at = four(row) * params.lse_stride + head;
    let norm = vec4(lse[at.x], lse[at.y], lse[at.z], lse[at.w]);
    let rows = vec4(row) + vec4(0u, 1u, 2u, 3u);
    let weights = params.weight + params.weight_step * vec4<f32>(rows - params.oldest);
    let seen = (rows < vec4(params.count)) & (rows + params.prefix >= vec4(column));
    let paid = select(vec4(0.0), weights * exp(logits * params.scale - norm), seen);
    return (paid.x + paid.y) + (paid.z + paid.w);
}

@compute @workgroup_size(#{COLUMNS}, #{SLICES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let column = group.x * #{COLUMNS}u + lane.x;
    let key_row = min(column, params.columns - 1u) * params.key_stride;
    var sum = 0.0;
    for (var n = 0u; n < params.set_heads; n++) {
        let head = group.y * params.set_heads + n;
        let key = key_row + head / params.group_heads * params.dim;
        for (var row = params.oldest + lane.y * 8u; row < params.count; row += 8u * #{SLICES}u) {
            let low = four(row) * params.query_stride + head * params.dim;
            let high = four(row + 4u) * params.query_stride + head * params.dim;
            var low_logits = vec4(0.0);
            var high_logits = vec4(0.0);
            for (var d = 0u; d < params.dim; d++) {
                let part = k[key + d];
                low_logits += dots(low + d, part);
                high_logits += dots(high + d, part);
            }
            sum += attention(row, head, column, low_logits);
            sum += attention(row + 4u, head, column, high_logits);
        }
    }
#ifdef SLICED
    partial[lane.y * #{COLUMNS}u + lane.x] = sum;
    workgroupBarrier();
    if lane.y > 0u { return; }
    for (var slice = 1u; slice < #{SLICES}u; slice++) { sum += partial[slice * #{COLUMNS}u + lane.x]; }
#endif
    if column >= params.columns { return; }
    let score = sum / f32(params.set_heads);
    out[group.y * params.columns + column] = select(score, LARGEST, column < params.forced);
}
