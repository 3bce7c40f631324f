// score: the attention that each key row gets from the most recent queries, from the softmax's log-sum-exp.
// q [count, heads, dim] · lse [count, heads] · k and v [prefix + count, kv_heads, dim] · out [sets, columns] f32
// Column c is the key row of query row c, so the rows before the prefix's end are not scored.
// grid (columns / (4 * LANES), sets), workgroup LANES x SLICES: a lane takes four key rows and every SLICES-th
// tile of four queries, which all lanes of a slice share. Tails repeat the last row and are masked.
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
    averaged: u32,      // divide by the queries that see the row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#ifdef BY_VALUE
@group(0) @binding(5) var<storage, read> v: array<vec4<f32>>;
#endif

const LARGEST = 0x1.fffffep+127f;

#ifdef SLICED
var<workgroup> partial: array<vec4<f32>, #{LANES} * #{SLICES}>;
#endif

const NEXT = vec4(0u, 1u, 2u, 3u);

/// What four queries pay to one key row.
fn paid(row: u32, norm: vec4<f32>, column: u32, logits: vec4<f32>) -> f32 {
    let rows = vec4(row) + NEXT;
    let weights = params.weight + params.weight_step * vec4<f32>(rows - params.oldest);
    let seen = (rows < vec4(params.count)) & (rows >= vec4(column));
    let each = select(vec4(0.0), weights * exp(logits * params.scale - norm), seen);
    return (each.x + each.y) + (each.z + each.w);
}

#ifdef BY_VALUE
/// The lengths of four rows' value vectors, averaged over the KV heads of a set.
fn value_norms(key_rows: vec4<u32>, head_set: u32) -> vec4<f32> {
    let heads = params.set_heads / params.group_heads;
    var sum = vec4(0.0);
    for (var head = head_set * heads; head < (head_set + 1u) * heads; head++) {
        let values = key_rows + head * params.dim;
        var squares = vec4(0.0);
        for (var d = 0u; d < params.dim; d++) {
            let rows = mat4x4(v[values.x + d], v[values.y + d], v[values.z + d], v[values.w + d]);
            squares += vec4(
                dot(rows[0], rows[0]), dot(rows[1], rows[1]), dot(rows[2], rows[2]), dot(rows[3], rows[3]),
            );
        }
        sum += sqrt(squares);
    }
    return sum / f32(heads);
}
#endif

@compute @workgroup_size(#{LANES}, #{SLICES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let columns = (group.x * #{LANES}u + lane.x) * 4u + NEXT;
    let key_rows = (min(columns, vec4(params.columns - 1u)) + params.prefix) * params.key_stride;
    // No query before the workgroup's first column sees any of its key rows.
    let first = max(params.oldest, group.x * #{LANES}u * 4u);
    var sum = vec4(0.0);
    for (var n = 0u; n < params.set_heads; n++) {
        let head = group.y * params.set_heads + n;
        let keys = key_rows + head / params.group_heads * params.dim;
        for (var row = first + lane.y * 4u; row < params.count; row += 4u * #{SLICES}u) {
            let rows = min(vec4(row) + NEXT, vec4(params.count - 1u));
            let at = rows * params.query_stride + head * params.dim;
            // logits[c][r] belongs to key row c and query r: a vector times a matrix dots it with each column.
            var logits = mat4x4<f32>();
            for (var d = 0u; d < params.dim; d++) {
                let queries = mat4x4(q[at.x + d], q[at.y + d], q[at.z + d], q[at.w + d]);
                logits[0] += k[keys.x + d] * queries;
                logits[1] += k[keys.y + d] * queries;
                logits[2] += k[keys.z + d] * queries;
                logits[3] += k[keys.w + d] * queries;
            }
            let norms = rows * params.lse_stride + head;
            let norm = vec4(lse[norms.x], lse[norms.y], lse[norms.z], lse[norms.w]);
            sum += vec4(
                paid(row, norm, columns.x, logits[0]),
                paid(row, norm, columns.y, logits[1]),
                paid(row, norm, columns.z, logits[2]),
                paid(row, norm, columns.w, logits[3]),
            );
        }
    }
#ifdef SLICED
    partial[lane.y * #{LANES}u + lane.x] = sum;
    workgroupBarrier();
    if lane.y > 0u { return; }
    for (var slice = 1u; slice < #{SLICES}u; slice++) { sum += partial[slice * #{LANES}u + lane.x]; }
#endif
    let queries = params.count - max(vec4(params.oldest), min(columns, vec4(params.count - 1u)));
    sum /= vec4<f32>(params.set_heads * select(vec4(1u), queries, params.averaged != 0u));
#ifdef BY_VALUE
    sum *= value_norms(key_rows, group.y);
#endif
    let scores = select(sum, vec4(LARGEST), columns < vec4(params.forced));
    for (var c = 0u; c < 4u; c++) {
        if columns[c] < params.columns { out[group.y * params.columns + columns[c]] = scores[c]; }
    }
}
