// attention_merge: joins the parts of decode attention.
// partials [H][S][hd + 2]: unnormalised sum of values, maximum score, sum of weights; an empty part has
// maximum -3.4e38 and sum 0 · out [H * hd], transformed back with ROTATED · lse [H]
// grid: one team per head.

#import kv_row

struct Params { heads: u32, splits: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = team_index(group.x, lane);
    let member = team_member(lane);
    if head >= params.heads { return; }

    const PART: u32 = HEAD_DIM + 2u;
    let start = head * params.splits * PART;
    var best = -3.4e38;
    for (var s = 0u; s < params.splits; s++) { best = max(best, partials[start + s * PART + HEAD_DIM]); }
    for (var i = member; i < HEAD_DIM; i += TEAM) { row[i] = 0.0; }
    var total = 0.0;
    for (var s = 0u; s < params.splits; s++) {
        let part = start + s * PART;
        let weight = exp(partials[part + HEAD_DIM] - best);
        total += weight * partials[part + HEAD_DIM + 1u];
        for (var i = member; i < HEAD_DIM; i += TEAM) { row[i] += weight * partials[part + i]; }
    }
    sync();
#ifdef ROTATED
    hadamard(member);
#endif
    for (var i = member; i < HEAD_DIM; i += TEAM) { out[head * HEAD_DIM + i] = row[i] / total; }
    if member == 0u { lse[head] = best + log(total); }
}
