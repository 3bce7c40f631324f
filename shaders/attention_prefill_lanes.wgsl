// attention_prefill_lanes: causal attention of a block of queries over dense keys and values, without barriers.
// q [count, H * hd] · k, v [prefix + count, G * hd] · out [count, H * hd] · lse [count, H]
// bias [biased, G] with BIASED, added to the scaled scores of the first rows
// grid (count / (LANES * TILE), H): one lane per TILE queries. The lanes of a workgroup walk the keys together and
// read each at one address; eight keys serve all the lane's queries and one update of their softmax.
// With SUBGROUPS, which have eight lanes or more, each lane loads one key's quad and hands it round.

struct Params { count: u32, prefix: u32, heads: u32, group: u32, scale: f32, biased: u32 }

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
#ifdef BIASED
@group(0) @binding(6) var<storage, read> bias: array<f32>;
#endif

#ifdef SUBGROUPS
fn spread(own: vec4<f32>) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
        subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
    );
}
#endif

@compute @workgroup_size(#{LANES})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
#endif
) {
    let head = group.y;
    let stride = params.heads / params.group * QUADS;
    let offset = head / params.group * QUADS;
    // The lane's queries are LANES apart, so that neighbouring lanes have neighbouring queries.
    let token = group.x * LANES * TILE + lane;
    // Keys that any query of the workgroup sees.
    let end = params.prefix + min((group.x + 1u) * LANES * TILE, params.count);

    var query: array<array<vec4<f32>, QUADS>, TILE>;
    var acc: array<array<vec4<f32>, QUADS>, TILE>;
    var best: array<f32, TILE>;
    var total: array<f32, TILE>;
#ifdef SUBGROUPS
    let own = subgroup_lane % 8u;
#endif
    for (var t = 0u; t < TILE; t++) {
        let start = (min(token + t * LANES, params.count - 1u) * params.heads + head) * QUADS;
        for (var i = 0u; i < QUADS; i++) { query[t][i] = q[start + i] * params.scale; }
        best[t] = EMPTY;
    }

    for (var first = 0u; first < end; first += 8u) {
        // Where the eight rows start; past the end the last one is repeated, and not seen.
#ifdef SUBGROUPS
        let at = min(first + own, end - 1u) * stride + offset;
#else
        var at: array<u32, 8>;
        for (var r = 0u; r < 8u; r++) { at[r] = min(first + r, end - 1u) * stride + offset; }
#endif
        // Zeros, and said so: Chromium leaves a variable of a loop as its last turn left it.
        var score = array<array<f32, 8>, TILE>();
        for (var i = 0u; i < QUADS; i++) {
#ifdef SUBGROUPS
            var keys = spread(k[at + i]);
#else
            var keys: array<vec4<f32>, 8>;
            for (var r = 0u; r < 8u; r++) { keys[r] = k[at[r] + i]; }
#endif
            for (var t = 0u; t < TILE; t++) {
                for (var r = 0u; r < 8u; r++) { score[t][r] += dot(query[t][i], keys[r]); }
            }
        }
#ifdef BIASED
        for (var r = 0u; r < 8u; r++) {
            if first + r < params.biased {
                let more = bias[(first + r) * (params.heads / params.group) + head / params.group];
                for (var t = 0u; t < TILE; t++) { score[t][r] += more; }
            }
        }
#endif
        // Row 0 is in the first eight and every query sees it: from then on `top` is a real score.
        var fade: array<f32, TILE>;
        for (var t = 0u; t < TILE; t++) {
            let visible = params.prefix + min(token + t * LANES, params.count - 1u) + 1u;
            var top = best[t];
            for (var r = 0u; r < 8u; r++) {
                score[t][r] = select(EMPTY, score[t][r], first + r < visible);
                top = max(top, score[t][r]);
            }
            fade[t] = exp(best[t] - top);
            total[t] *= fade[t];
            for (var r = 0u; r < 8u; r++) {
                score[t][r] = exp(score[t][r] - top);
                total[t] += score[t][r];
            }
            best[t] = top;
        }
        for (var i = 0u; i < QUADS; i++) {
#ifdef SUBGROUPS
            var values = spread(v[at + i]);
#else
            var values: array<vec4<f32>, 8>;
            for (var r = 0u; r < 8u; r++) { values[r] = v[at[r] + i]; }
#endif
            for (var t = 0u; t < TILE; t++) {
                var sum = acc[t][i] * fade[t];
                for (var r = 0u; r < 8u; r++) { sum += values[r] * score[t][r]; }
                acc[t][i] = sum;
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
