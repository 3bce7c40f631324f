// rms_norm: x * weight / sqrt(mean(x²) + epsilon), row by row.
// x, out [rows, 4 * quads] f32 · weight [4 * quads] f32 · with HALVES out is halves, two to a word
// grid: a workgroup a row, 32768 rows to a grid row. Lanes write a vec4 each, in turns.
// LANES: every lane sums the whole row, which costs a software adapter less than a barrier does.
#import stored

struct Params { rows: u32, quads: u32, epsilon: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<Stored>;

const LANES = #{WORKGROUP}u;

#ifdef SHARED
var<workgroup> partial: array<f32, LANES>;

fn mean_square(start: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = lane; i < params.quads; i += LANES) {
        sum += dot(x[start + i], x[start + i]);
    }
    partial[lane] = sum;
    for (var span = LANES / 2u; span > 0u; span /= 2u) {
        workgroupBarrier();
        if lane < span { partial[lane] += partial[lane + span]; }
    }
    workgroupBarrier();
    return partial[0] / f32(4u * params.quads);
}
#else
fn mean_square(start: u32, lane: u32) -> f32 {
    var sum = vec4<f32>();
    for (var i = 0u; i < params.quads; i++) {
        sum += x[start + i] * x[start + i];
    }
    return dot(sum, vec4<f32>(1.0)) / f32(4u * params.quads);
}
#endif

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * 32768u + group.x;
    if row >= params.rows { return; }
    let start = row * params.quads;
    let scale = inverseSqrt(mean_square(start, lane) + params.epsilon);
    for (var i = lane; i < params.quads; i += LANES) {
        out[start + i] = stored(x[start + i] * weight[i] * scale);
    }
}
