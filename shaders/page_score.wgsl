// page_score: the most attention that any head's query can pay to a row of a page, beside what it paid already.
// q [H][hd] · bounds [page][KV head][hd]: two halves, see page_bounds · ends [H]: the maximum of a head's scores,
// and the sum of exp(score - maximum) · out [pages] f32
// grid (pages / 64); a lane per page.

struct Params {
    pages: u32,
    kv_heads: u32,
    group: u32,
    scale: f32,
}

const HEAD_DIM: u32 = #{HEAD_DIM}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> bounds: array<u32>;
@group(0) @binding(3) var<storage, read> ends: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.pages { return; }
    var most = -80.0;
    for (var head = 0u; head < params.kv_heads * params.group; head++) {
        let page = (id.x * params.kv_heads + head / params.group) * HEAD_DIM;
        var sum = 0.0;
        for (var d = 0u; d < HEAD_DIM; d++) {
            let products = unpack2x16float(bounds[page + d]) * q[head * HEAD_DIM + d];
            sum += max(products.x, products.y);
        }
        most = max(most, sum * params.scale - ends[head].x - log(ends[head].y));
    }
    // Far from both ends of what a float holds, so that pages stay apart.
    out[id.x] = exp(min(most, 80.0));
}
