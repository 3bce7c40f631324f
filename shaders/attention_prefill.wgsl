// attention_prefill: causal attention of a block of queries over dense keys and values.
// q [count, H * hd] · k, v [prefix + count, G * hd] · out [count, H * hd] · lse [count, H]
// grid (count / (LANES * TILE), H): one lane per TILE queries. The lanes of a workgroup walk the keys together and
// read each at one address; a pair of keys serves all the lane's queries and one update of their softmax.

struct Params { count: u32, prefix: u32, heads: u32, group: u32, scale: f32 }

const QUADS: u32 = #{HEAD_DIM}u / 4u;
const LANES: u32 = #{LANES}u;
const TILE: u32 = #{TILE}u;
const EMPTY: f32 = -3.4e38;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let kv_stride = params.heads / params.group * QUADS;
    let kv_start = head / params.group * QUADS;
    // The lane's queries are LANES apart, so that neighbouring lanes have neighbouring queries.
    let token = group.x * LANES * TILE + lane;
    // Keys that any query of the workgroup sees.
    let end = params.prefix + min((group.x + 1u) * LANES * TILE, params.count);

    var query: array<array<vec4<f32>, QUADS>, TILE>;
    var acc: array<array<vec4<f32>, QUADS>, TILE>;
    var best: array<f32, TILE>;
    var total: array<f32, TILE>;
    for (var t = 0u; t < TILE; t++) {
        let start = (min(token + t * LANES, params.count - 1u) * params.heads + head) * QUADS;
        for (var i = 0u; i < QUADS; i++) { query[t][i] = q[start + i] * params.scale; }
        best[t] = EMPTY;
    }

    for (var first = 0u; first < end; first += 2u) {
        let rows = vec2(first) + vec2(0u, 1u);
        let at = min(rows, vec2(end - 1u)) * kv_stride + kv_start;
        var score: array<vec2<f32>, TILE>;
        for (var i = 0u; i < QUADS; i++) {
            let a = k[at.x + i];
            let b = k[at.y + i];
            for (var t = 0u; t < TILE; t++) {
                let x = query[t][i];
                score[t] += vec2(dot(x, a), dot(x, b));
            }
        }
        // Row 0 is in the first pair and every query sees it: from then on `top` is a real score.
        var fade: array<f32, TILE>;
        for (var t = 0u; t < TILE; t++) {
            let visible = params.prefix + min(token + t * LANES, params.count - 1u) + 1u;
            let seen = select(vec2(EMPTY), score[t], rows < vec2(visible));
            let top = max(best[t], max(seen.x, seen.y));
            fade[t] = exp(best[t] - top);
            score[t] = exp(seen - top);
            total[t] = total[t] * fade[t] + dot(score[t], vec2(1.0));
            best[t] = top;
        }
        for (var i = 0u; i < QUADS; i++) {
            let a = v[at.x + i];
            let b = v[at.y + i];
            for (var t = 0u; t < TILE; t++) {
                let w = score[t];
                acc[t][i] = acc[t][i] * fade[t] + a * w.x + b * w.y;
            }
        }
    }

    for (var t = 0u; t < TILE; t++) {
        let row = token + t * LANES;
        if row < params.count {
            let start = (row * params.heads + head) * QUADS;
            for (var i = 0u; i < QUADS; i++) { out[start + i] = acc[t][i] / total[t]; }
            lse[row * params.heads + head] = best[t] + log(total[t]);
        }
    }
}
