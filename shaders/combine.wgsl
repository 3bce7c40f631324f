// combine: one term's scores joined to what the terms before it gave.
// term [sets, columns] f32, not negative · out [sets, columns] f32
// grid (columns / 256, sets); one lane per column. For a sum, every workgroup takes the mean of its whole set.
// The first `forced` columns get the largest number and count in no mean.
#ifdef SUM
#import across
#endif

struct Params {
    columns: u32,
    forced: u32,
    joined: u32,  // there are terms before this one
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> term: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

const LARGEST = 0x1.fffffep+127f;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.y * params.columns;
    let column = group.x * 256u + lane;
    var weight = params.weight;
#ifdef SUM
    var sum = 0.0;
    for (var i = params.forced + lane; i < params.columns; i += 256u) { sum += term[first + i]; }
    let mean = sum_across(lane, sum) / f32(max(params.columns, params.forced + 1u) - params.forced);
    weight = select(0.0, weight / mean, mean > 0.0);
#endif
    if column >= params.columns { return; }
    let at = first + column;
    var score = weight * term[at];
    if params.joined != 0u {
#ifdef SUM
        score += out[at];
#else
        score = max(score, out[at]);
#endif
    }
    out[at] = select(score, LARGEST, column < params.forced);
}
