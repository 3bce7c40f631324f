// attention_merge: joins the parts of decode attention, for many sequences.
// partials [H][S][hd + 2]: unnormalised sum of values, maximum score, sum of weights; an empty part has
// maximum -3.4e38 and sum 0; ends [H][2]: the same two of all parts · out [H * hd], transformed back with ROTATED
// grid: one team per head, a layer of them for each sequence; its job says where its values begin.

#import jobs
#import kv_row

struct Job { @align(16) heads: u32, splits: u32, partials_from: u32, out_from: u32, ends_from: u32 }

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let job = jobs[group.z];
    let head = team_index(group.x, lane);
    let member = team_member(lane);
    if head >= job.heads { return; }

    const PART: u32 = HEAD_DIM + 2u;
    let start = job.partials_from + head * job.splits * PART;
    var best = -3.4e38;
    for (var s = 0u; s < job.splits; s++) { best = max(best, partials[start + s * PART + HEAD_DIM]); }
    for (var i = member; i < HEAD_DIM; i += TEAM) { row[i] = 0.0; }
    var total = 0.0;
    for (var s = 0u; s < job.splits; s++) {
        let part = start + s * PART;
        let weight = exp(partials[part + HEAD_DIM] - best);
        total += weight * partials[part + HEAD_DIM + 1u];
        for (var i = member; i < HEAD_DIM; i += TEAM) { row[i] += weight * partials[part + i]; }
    }
    sync();
#ifdef ROTATED
    hadamard(member);
#endif
    for (var i = member; i < HEAD_DIM; i += TEAM) { out[job.out_from + head * HEAD_DIM + i] = row[i] / total; }
    if member == 0u {
        partials[job.ends_from + 2u * head] = best;
        partials[job.ends_from + 2u * head + 1u] = total;
    }
}
