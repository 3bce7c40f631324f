// score_lanes: the attention that each key row gets from the most recent queries, for software adapters.
// grid (columns / (8 * TILE), sets), workgroups of 8: a lane keeps TILE key rows, eight apart, in registers, and walks the
// queries eight at a time, which all lanes share. Past the last query or column the last one is repeated, and not seen.
// Heads and queries are added in a fixed order, so a score has the same bits in every run.
#import score
#import eight

const QUADS: u32 = #{HEAD_DIM}u / 4u;
const TILE: u32 = #{TILE}u;

fn input(i: u32) -> vec4<f32> { return q[min(i, (params.end - params.begin) * params.query_stride - 1u)]; }

// The log-sum-exp of eight queries.
fn norms(row: u32, head: u32, lane: u32) -> array<f32, 8> {
#ifdef SUBGROUPS
    let own = lse[(min(row + lane % 8u, params.end - 1u) - params.begin) * params.lse_stride + head];
    return array<f32, 8>(
        subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
        subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
    );
#else
    var all: array<f32, 8>;
    for (var r = 0u; r < 8u; r++) {
        all[r] = lse[(min(row + r, params.end - 1u) - params.begin) * params.lse_stride + head];
    }
    return all;
#endif
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, who: Lane) {
    let lane = loader(who);
    let column = group.x * 8u * TILE + who.index;
    var sum: array<f32, TILE>;
    for (var n = 0u; n < params.set_heads; n++) {
        let head = group.y * params.set_heads + n;
        var key: array<array<vec4<f32>, QUADS>, TILE>;
        for (var t = 0u; t < TILE; t++) {
            let row = min(column + 8u * t, params.columns - 1u) + params.prefix;
            let at = row * params.key_stride + head / params.group_heads * QUADS;
            for (var i = 0u; i < QUADS; i++) { key[t][i] = k[at + i] * params.scale; }
        }
        // No query before the workgroup's first column sees any of its key rows.
        for (var row = max(max(params.oldest, params.begin), group.x * 8u * TILE); row < params.end; row += 8u) {
            // Zeros, and said so: Chromium leaves a variable of a loop as its last turn left it.
            var logits = array<array<f32, 8>, TILE>();
            for (var i = 0u; i < QUADS; i++) {
                let queries = eight((row - params.begin) * params.query_stride + head * QUADS + i, 1u, params.query_stride, lane);
                for (var t = 0u; t < TILE; t++) {
                    for (var r = 0u; r < 8u; r++) { logits[t][r] += dot(key[t][i], queries[r]); }
                }
            }
            let norm = norms(row, head, lane);
            for (var r = 0u; r < 8u; r++) {
                let weight = params.weight + params.weight_step * f32(row + r - params.oldest);
                for (var t = 0u; t < TILE; t++) {
                    let seen = row + r < params.end && row + r >= column + 8u * t;
                    sum[t] += select(0.0, weight * exp(logits[t][r] - norm[r]), seen);
                }
            }
        }
    }
    for (var t = 0u; t < TILE; t++) { finish(sum[t], column + 8u * t, group.y); }
}
