// matvec_groups: x Wᵀ for one row of x or a few, on GPUs.
// W: one part, [rows, cols] packed · x [count, cols], norm [cols] f32 · out [count, stride] f32 from column `first` on
// grid: a workgroup of 64 per four rows (two gate and two up rows with SWIGLU), 32768 to a grid row, by
// count / COLUMNS in z. Lane l takes chunks l, l + 64, ... of all four rows, so that neighbours read neighbouring
// words; a chunk is unpacked once for COLUMNS rows of x. Then the lanes' sums are reduced. With NORM, COLUMNS is 1 and
// the sum of squares of x is one more such sum. The order of an output's sum does not depend on COLUMNS.
#import product
#import weight_row

@group(0) @binding(1) var<storage, read> words: array<Chunk>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#ifdef NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;
#endif

const LANES = 64u;
const COLUMNS = #{COLUMNS}u;
var<workgroup> sums: array<array<vec4<f32>, LANES>, COLUMNS>;
#ifdef NORM
var<workgroup> squares: array<f32, LANES>;
#endif

struct Eight { low: vec4<f32>, high: vec4<f32>, scale: vec2<f32> }

fn weights(chunk: u32) -> Eight {
    let packed = words[chunk];
#ifdef F16
    let scale = vec2<f32>(1.0, 0.0);
#else
    let scale = unpack2x16float(scales[chunk / 4u]);
#endif
    return Eight(chunk_quad(packed, 0u), chunk_quad(packed, 1u), scale);
}

fn product(w: Eight, low: vec4<f32>, high: vec4<f32>, total: f32) -> f32 {
    let raw = dot(w.low, low) + dot(w.high, high);
#ifdef F16
    return raw;
#else
    return w.scale.x * raw + w.scale.y * total;
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
    let top = group.z * COLUMNS;
    var sum = array<vec4<f32>, COLUMNS>();
#ifdef NORM
    var square = 0.0;
#endif
    for (var i = lane; i < chunks; i += LANES) {
        let at = row * chunks + i;
        let w = array<Eight, 4>(weights(at.x), weights(at.y), weights(at.z), weights(at.w));
        for (var c = 0u; c < COLUMNS; c++) {
            // Past the last row of x any value will do: its products are not stored.
            let start = 2u * (min(top + c, params.count - 1u) * chunks + i);
            var low = x[start];
            var high = x[start + 1u];
#ifdef NORM
            square += dot(low, low) + dot(high, high);
            low *= norm[2u * i];
            high *= norm[2u * i + 1u];
#endif
            let total = dot(low + high, vec4<f32>(1.0));
            sum[c] += vec4<f32>(
                product(w[0], low, high, total),
                product(w[1], low, high, total),
                product(w[2], low, high, total),
                product(w[3], low, high, total),
            );
        }
    }
#ifdef SUBGROUPS
    let slot = lane / subgroup_size;
    for (var c = 0u; c < COLUMNS; c++) {
        sum[c] = subgroupAdd(sum[c]);
        if subgroup_lane == 0u { sums[c][slot] = sum[c]; }
    }
#ifdef NORM
    square = subgroupAdd(square);
    if subgroup_lane == 0u { squares[slot] = square; }
#endif
    workgroupBarrier();
    if lane > 0u { return; }
    for (var s = 1u; s < (LANES + subgroup_size - 1u) / subgroup_size; s++) {
        for (var c = 0u; c < COLUMNS; c++) { sum[c] += sums[c][s]; }
#ifdef NORM
        square += squares[s];
#endif
    }
#else
    for (var c = 0u; c < COLUMNS; c++) { sums[c][lane] = sum[c]; }
#ifdef NORM
    squares[lane] = square;
#endif
    for (var span = LANES / 2u; span > 0u; span /= 2u) {
        workgroupBarrier();
        if lane < span {
            for (var c = 0u; c < COLUMNS; c++) { sums[c][lane] += sums[c][lane + span]; }
#ifdef NORM
            squares[lane] += squares[lane + span];
#endif
        }
    }
    // What follows reads only what this lane itself wrote last.
    if lane > 0u { return; }
    for (var c = 0u; c < COLUMNS; c++) { sum[c] = sums[c][0]; }
#ifdef NORM
    square = squares[0];
#endif
#endif
    for (var c = 0u; c < COLUMNS; c++) {
        if top + c >= params.count { break; }
#ifdef NORM
        sum[c] *= inverseSqrt(square / f32(params.cols) + params.epsilon);
#endif
#ifdef SWIGLU
        let result = vec4<f32>(sum[c].xy / (1.0 + exp(-sum[c].xy)) * sum[c].zw, 0.0, 0.0);
        let count = min(2u, outputs - min(first, outputs));
#else
        let result = sum[c];
        let count = min(4u, outputs - min(first, outputs));
#endif
        let to = (top + c) * params.stride + params.first + first;
        for (var i = 0u; i < count; i++) {
#ifdef ADD
            out[to + i] += result[i];
#else
            out[to + i] = result[i];
#endif
        }
    }
}
