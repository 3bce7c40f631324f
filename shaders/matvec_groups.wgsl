// matvec_groups: W x for one row x, on GPUs.
// W: one part, [rows, cols] packed · x, norm [cols] f32 · out [first + outputs] f32
// grid: a workgroup of 64 per four rows (two gate and two up rows with SWIGLU), 32768 to a grid row.
// Lane l takes chunks l, l + 64, ... of all four rows, so that neighbours read neighbouring words and one read of
// x serves four rows; then the lanes' sums are reduced. The sum of squares of x is a fifth such sum.
#import weight_row

struct Params { rows: u32, cols: u32, first: u32, epsilon: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<Chunk>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#ifdef NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;
#endif

const LANES = 64u;
var<workgroup> sums: array<vec4<f32>, LANES>;
var<workgroup> squares: array<f32, LANES>;

fn product(chunk: u32, low: vec4<f32>, high: vec4<f32>, total: f32) -> f32 {
    let packed = words[chunk];
    let raw = dot(chunk_quad(packed, 0u), low) + dot(chunk_quad(packed, 1u), high);
#ifdef F16
    return raw;
#else
    let scale = unpack2x16float(scales[chunk / 4u]);
    return scale.x * raw + scale.y * total;
#endif
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
#endif
) {
    let place = group.y * 32768u + group.x;
#ifdef SWIGLU
    let outputs = params.rows / 2u;
    let first = place * 2u;
    let row = min(vec4<u32>(0u, 1u, 0u, 1u) + first, vec4<u32>(outputs - 1u)) + vec4<u32>(0u, 0u, 1u, 1u) * outputs;
#else
    let outputs = params.rows;
    let first = place * 4u;
    let row = min(vec4<u32>(0u, 1u, 2u, 3u) + first, vec4<u32>(outputs - 1u));
#endif
    let chunks = params.cols / 8u;
    var sum = vec4<f32>();
    var square = 0.0;
    for (var i = lane; i < chunks; i += LANES) {
        var low = x[2u * i];
        var high = x[2u * i + 1u];
#ifdef NORM
        square += dot(low, low) + dot(high, high);
        low *= norm[2u * i];
        high *= norm[2u * i + 1u];
#endif
        let total = dot(low + high, vec4<f32>(1.0));
        let at = row * chunks + i;
        sum += vec4<f32>(
            product(at.x, low, high, total),
            product(at.y, low, high, total),
            product(at.z, low, high, total),
            product(at.w, low, high, total),
        );
    }
#ifdef SUBGROUPS
    sum = subgroupAdd(sum);
    square = subgroupAdd(square);
    let slot = lane / subgroup_size;
    if subgroup_lane == 0u {
        sums[slot] = sum;
        squares[slot] = square;
    }
    workgroupBarrier();
    if lane > 0u { return; }
    for (var s = 1u; s < (LANES + subgroup_size - 1u) / subgroup_size; s++) {
        sum += sums[s];
        square += squares[s];
    }
#else
    sums[lane] = sum;
    squares[lane] = square;
    for (var span = LANES / 2u; span > 0u; span /= 2u) {
        workgroupBarrier();
        if lane < span {
            sums[lane] += sums[lane + span];
            squares[lane] += squares[lane + span];
        }
    }
    // What follows reads only what this lane itself wrote last.
    if lane > 0u { return; }
    sum = sums[0];
    square = squares[0];
#endif
#ifdef NORM
    sum *= inverseSqrt(square / f32(params.cols) + params.epsilon);
#endif
#ifdef SWIGLU
    let result = vec4<f32>(sum.xy / (1.0 + exp(-sum.xy)) * sum.zw, 0.0, 0.0);
    let count = min(2u, outputs - min(first, outputs));
#else
    let result = sum;
    let count = min(4u, outputs - min(first, outputs));
#endif
    for (var i = 0u; i < count; i++) {
#ifdef ADD
        out[params.first + first + i] += result[i];
#else
        out[params.first + first + i] = result[i];
#endif
    }
}
