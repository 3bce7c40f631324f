// rope_split: splits the rows of a block into queries, keys and values and rotates queries and keys.
// qkv [count, (H + 2G) * hd] · positions [count] · frequencies [PAIRS]
// q [count, H * hd] · k, v [>= first + count, G * hd], written from row `first` on
// grid: one lane per (token, pair of dimensions); the lane serves that pair in every head.

#import rope

struct Params { count: u32, first: u32, query_heads: u32, kv_heads: u32, scale: f32 }

const HEAD_DIM: u32 = #{HEAD_DIM}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> frequencies: array<f32>;
@group(0) @binding(4) var<storage, read_write> q: array<f32>;
@group(0) @binding(5) var<storage, read_write> k: array<f32>;
@group(0) @binding(6) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x / (HEAD_DIM / 2u);
    let pair = id.x % (HEAD_DIM / 2u);
    if token >= params.count { return; }
    var by = vec2(1.0, 0.0);
    if pair < PAIRS { by = turn(f32(positions[token]) * frequencies[pair]) * params.scale; }
    let dims = pair_dims(pair);
    let heads = params.query_heads + 2u * params.kv_heads;
    for (var head = 0u; head < heads; head++) {
        let source = (token * heads + head) * HEAD_DIM;
        let values = vec2(qkv[source + dims.x], qkv[source + dims.y]);
        if head < params.query_heads {
            let to = (token * params.query_heads + head) * HEAD_DIM;
            let turned = rotate(values, by);
            q[to + dims.x] = turned.x;
            q[to + dims.y] = turned.y;
        } else if head < params.query_heads + params.kv_heads {
            let to = ((params.first + token) * params.kv_heads + head - params.query_heads) * HEAD_DIM;
            let turned = rotate(values, by);
            k[to + dims.x] = turned.x;
            k[to + dims.y] = turned.y;
        } else {
            let to = ((params.first + token) * params.kv_heads + head - params.query_heads - params.kv_heads) * HEAD_DIM;
            v[to + dims.x] = values.x;
            v[to + dims.y] = values.y;
        }
    }
}
