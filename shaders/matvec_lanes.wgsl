// matvec_lanes: W x for one row x, on software adapters.
// W: one part, [rows, cols] packed · x, norm [cols] f32 · out [first + outputs] f32
// grid: lines of workgroups of 8, 32768 to a grid row; a lane for ROWS neighbouring rows, with SWIGLU half of
// them gates and half their ups. A lane's sums stay in registers; nothing is shared, nothing waits.
#import weight_row
#import eight

// `zero` is 0, which the compiler cannot know.
struct Params { rows: u32, cols: u32, first: u32, epsilon: f32, zero: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#ifdef NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;
#endif

const ROWS = #{ROWS}u;
#ifdef SWIGLU
const OUTPUTS = ROWS / 2u;
#else
const OUTPUTS = ROWS;
#endif

// Of the quads that this lane loaded; with SUBGROUPS those are its share of x, otherwise all of x.
var<private> squares: vec4<f32>;

fn input(i: u32) -> vec4<f32> {
    var value = vec4<f32>();
    if i < params.cols / 4u {
        value = x[i];
#ifdef NORM
        squares += value * value;
        value *= norm[i];
#endif
    }
    return value;
}

// Touches each cache line of the workgroup's neighbouring rows in the order of addresses. The lanes then walk
// eight rows at once, which no prefetcher follows, but find them in the cache.
fn touch(row: u32, packs: u32, lane: u32) -> u32 {
    var touched = 0u;
    let last = params.rows * packs - 1u;
    for (var i = 4u * lane; i < 8u * OUTPUTS * packs; i += 32u) {
        touched |= words[min(row * packs + i, last)].x;
    }
    return min(touched, params.zero);
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
#endif
) {
#ifdef SUBGROUPS
    let lane = subgroup_lane;
#else
    let lane = index;
#endif
#ifdef SWIGLU
    let outputs = params.rows / 2u;
#else
    let outputs = params.rows;
#endif
    let block = (group.y * 32768u + group.x) * 8u * OUTPUTS;
    let column = block + index * OUTPUTS;
    let packs = params.cols / (4u * PACK_QUADS);
    var nothing = touch(block, packs, index);
#ifdef SWIGLU
    nothing += touch(block + outputs, packs, index);
#endif
    var row: array<u32, ROWS>;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        row[r] = min(column + r % OUTPUTS, outputs - 1u) + r / OUTPUTS * outputs + nothing;
        sums[r] = vec4<f32>();
    }
    let steps = (packs + STEP_PACKS - 1u) / STEP_PACKS;
    for (var step = 0u; step < steps; step++) {
        var values = eight(8u * step, 1u, lane);
        var total = vec4<f32>();
        var products: array<vec4<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) { products[r] = vec4<f32>(); }
        for (var p = 0u; p < STEP_PACKS; p++) {
            let pack = STEP_PACKS * step + p;
#ifdef F16
            if pack >= packs { break; }
#endif
            var packed: array<vec4<u32>, ROWS>;
            for (var r = 0u; r < ROWS; r++) { packed[r] = words[row[r] * packs + pack]; }
            for (var i = 0u; i < PACK_QUADS; i++) {
                let value = values[PACK_QUADS * p + i];
                total += value;
                for (var r = 0u; r < ROWS; r++) { products[r] += quad(packed[r], i) * value; }
            }
        }
        for (var r = 0u; r < ROWS; r++) {
#ifdef F16
            sums[r] += products[r];
#else
            let scale = unpack2x16float(scales[row[r] * steps + step]);
            sums[r] += scale.x * products[r] + scale.y * total;
#endif
        }
    }
    var result: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) { result[r] = dot(sums[r], vec4<f32>(1.0)); }
#ifdef NORM
#ifdef SUBGROUPS
    squares = subgroupAdd(squares);
#endif
    let scale = inverseSqrt(dot(squares, vec4<f32>(1.0)) / f32(params.cols) + params.epsilon);
    for (var r = 0u; r < ROWS; r++) { result[r] *= scale; }
#endif
    for (var r = 0u; r < OUTPUTS; r++) {
        if column + r < outputs {
            let at = params.first + column + r;
#ifdef SWIGLU
            out[at] = result[r] / (1.0 + exp(-result[r])) * result[r + OUTPUTS];
#else
#ifdef ADD
            out[at] += result[r];
#else
            out[at] = result[r];
#endif
#endif
        }
    }
}
