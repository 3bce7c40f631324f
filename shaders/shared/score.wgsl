// score: what both score kernels read and how they end a sum, see score.rs.
// q [end - begin, heads, dim] · lse [end - begin, heads] · k and v [prefix + end, kv_heads, dim] · out [sets, columns] f32
// Column c is the key row of query row c, so the rows before the prefix's end are not scored.

struct Params {
    set_heads: u32,     // query heads that share one set of scores
    group_heads: u32,   // query heads that share one KV head
    query_stride: u32,  // heads * dim / 4
    key_stride: u32,    // kv_heads * dim / 4
    dim: u32,           // in vec4
    lse_stride: u32,    // heads
    prefix: u32,        // key rows before the first query's own
    begin: u32,         // first query row at hand
    end: u32,           // and the one after the last
    count: u32,         // query rows altogether
    oldest: u32,        // first query row that scores
    joined: u32,        // columns that hold what earlier queries paid
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

#ifdef BY_VALUE
/// The length of a row's value vector, averaged over the KV heads of a set.
fn value_norm(row: u32, head_set: u32) -> f32 {
    let heads = params.set_heads / params.group_heads;
    var sum = 0.0;
    for (var head = head_set * heads; head < (head_set + 1u) * heads; head++) {
        let values = row * params.key_stride + head * params.dim;
        var squares = vec4(0.0);
        for (var d = 0u; d < params.dim; d++) { squares += v[values + d] * v[values + d]; }
        sum += sqrt(dot(squares, vec4(1.0)));
    }
    return sum / f32(heads);
}
#endif

/// Adds what the queries at hand pay to a column, and ends the sum with the last ones.
fn finish(part: f32, column: u32, head_set: u32) {
    if column >= params.columns { return; }
    let at = head_set * params.columns + column;
    var sum = part;
    if column < params.joined { sum += out[at]; }
    if params.end < params.count {
        out[at] = sum;
        return;
    }
    let queries = params.count - max(params.oldest, column);
    var score = sum / f32(params.set_heads * select(1u, queries, params.averaged != 0u));
#ifdef BY_VALUE
    score *= value_norm(column + params.prefix, head_set);
#endif
    out[at] = select(score, LARGEST, column < params.forced);
}
