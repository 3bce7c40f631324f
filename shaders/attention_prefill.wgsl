// attention_prefill: causal attention of a block of queries over dense keys and values.
// q [count, H * hd] · k, v [prefix + count, G * hd] · out [count, H * hd] · lse [count, H]
// grid (count / LANES, H): one lane per query; the lanes of a workgroup walk the keys together, so that every
// key and value is read at a lane-uniform address, four rows for each update of the running softmax.

struct Params { count: u32, prefix: u32, heads: u32, group: u32, scale: f32 }

const QUADS: u32 = #{HEAD_DIM}u / 4u;
const LANES: u32 = #{LANES}u;
const EMPTY: f32 = -3.4e38;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let token = group.x * LANES + lane;
    let head = group.y;
    let row = min(token, params.count - 1u);
    let start = (row * params.heads + head) * QUADS;
    let stride = params.heads / params.group * QUADS;
    let kv_start = head / params.group * QUADS;
    // Keys that the query sees, and those that any query of the workgroup sees.
    let visible = params.prefix + row + 1u;
    let end = params.prefix + min((group.x + 1u) * LANES, params.count);

    var query: array<vec4<f32>, QUADS>;
    var acc: array<vec4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) { query[i] = q[start + i] * params.scale; }
    var best = EMPTY;
    var total = 0.0;

    for (var first = 0u; first < end; first += 4u) {
        let rows = vec4(first) + vec4(0u, 1u, 2u, 3u);
        let at = min(rows, vec4(end - 1u)) * stride + kv_start;
        var score = vec4(0.0);
        for (var i = 0u; i < QUADS; i++) {
            let x = query[i];
            score += vec4(dot(x, k[at.x + i]), dot(x, k[at.y + i]), dot(x, k[at.z + i]), dot(x, k[at.w + i]));
        }
        score = select(vec4(EMPTY), score, rows < vec4(visible));
        // The first four rows hold row 0, which every query sees: from then on `top` is a real score.
        let top = max(best, max(max(score.x, score.y), max(score.z, score.w)));
        let fade = exp(best - top);
        let w = exp(score - top);
        total = total * fade + dot(w, vec4(1.0));
        best = top;
        for (var i = 0u; i < QUADS; i++) {
            acc[i] = acc[i] * fade + v[at.x + i] * w.x + v[at.y + i] * w.y + v[at.z + i] * w.z + v[at.w + i] * w.w;
        }
    }

    if token >= params.count { return; }
    for (var i = 0u; i < QUADS; i++) { out[start + i] = acc[i] / total; }
    lse[row * params.heads + head] = best + log(total);
}
