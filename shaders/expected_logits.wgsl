// expected_logits: the logarithm of what keys can expect of normally distributed queries, head by head.
// k [prefix + count, kv_heads, dim] · moments [heads, 1 + dim, dim] of the queries · out [heads, count] f32
// grid (count / (4 * 32), heads): a lane takes four key rows, so that it reads each covariance once for all of
// them. Tails repeat the last row. A covariance is symmetric, so its upper half is read and counts twice.

struct Params {
    group_heads: u32,  // query heads that share one KV head
    key_stride: u32,   // kv_heads * dim / 4
    dim: u32,          // in vec4
    prefix: u32,       // key rows before those of the block
    count: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> moments: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

const NEXT = vec4(0u, 1u, 2u, 3u);

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let rows = vec4(id.x * 4u) + NEXT;
    let keys = (min(rows, vec4(params.count - 1u)) + params.prefix) * params.key_stride
        + id.y / params.group_heads * params.dim;
    let mean = id.y * (1u + 4u * params.dim) * params.dim;
    let curve = params.scale * params.scale;
    var logits = vec4(0.0);
    for (var i = 0u; i < params.dim; i++) {
        let covariance = mean + (1u + 4u * i) * params.dim;
        // spread[r] belongs to key row r: a vector times a matrix dots it with each column.
        var spread = mat4x4<f32>();
        for (var j = i; j < params.dim; j++) {
            let at = covariance + j;
            let square = select(1.0, 0.5, j == i) * mat4x4(
                moments[at], moments[at + params.dim], moments[at + 2u * params.dim], moments[at + 3u * params.dim],
            );
            spread[0] += k[keys.x + j] * square;
            spread[1] += k[keys.y + j] * square;
            spread[2] += k[keys.z + j] * square;
            spread[3] += k[keys.w + j] * square;
        }
        let linear = params.scale * moments[mean + i];
        logits += vec4(
            dot(k[keys.x + i], linear + curve * spread[0]),
            dot(k[keys.y + i], linear + curve * spread[1]),
            dot(k[keys.z + i], linear + curve * spread[2]),
            dot(k[keys.w + i], linear + curve * spread[3]),
        );
    }
    for (var c = 0u; c < 4u; c++) {
        if rows[c] < params.count { out[id.y * params.count + rows[c]] = logits[c]; }
    }
}
