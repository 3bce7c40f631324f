// matvec_lanes: W x for one row x, on software adapters.
// W: one part, [rows, cols] packed · x, norm [cols] f32 · out [first + outputs] f32
// grid: lines of workgroups of 8, 32768 to a grid row; a lane for every eighth of 8 * ROWS neighbouring rows, with SWIGLU
// half of them gates and half their ups. A lane's sums stay in registers; nothing is shared, nothing waits.
#import product
#import weight_pack
#import eight

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

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, who: Lane) {
    let lane = loader(who);
#ifdef SWIGLU
    let outputs = params.rows / 2u;
#else
    let outputs = params.rows;
#endif
    let column = (group.y * 32768u + group.x) * 8u * OUTPUTS + who.index;
    let packs = params.cols / (4u * PACK_QUADS);
    let steps = (packs + STEP_PACKS - 1u) / STEP_PACKS;
    var first: array<u32, ROWS>;
    var first_scale: array<u32, ROWS>;
    var result: array<f32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let row = min(column + 8u * (r % OUTPUTS), outputs - 1u) + r / OUTPUTS * outputs;
        first[r] = row_start(row, packs);
        first_scale[r] = row_start(row, steps);
        result[r] = 0.0;
    }
    for (var step = 0u; step < steps; step++) {
        var values = eight(8u * step, 8u, 0u, lane);
        var quads = vec4<f32>();
        for (var i = 0u; i < 8u; i++) {
            quads += values[i];
            values[i] *= place(i);
        }
        let total = dot(quads, vec4<f32>(1.0));
        for (var r = 0u; r < ROWS; r++) {
            var products = vec4<f32>();
            for (var p = 0u; p < STEP_PACKS; p++) {
                let pack = STEP_PACKS * step + p;
#ifdef F16
                if pack >= packs { break; }
#endif
                let packed = weight_pack(first[r] + TILE * pack);
                for (var i = 0u; i < PACK_QUADS; i++) { products += raw_quad(packed, i) * values[PACK_QUADS * p + i]; }
            }
            let product = dot(products, vec4<f32>(1.0));
#ifdef F16
            result[r] += product;
#else
            let scale = weight_scale(first_scale[r] + TILE * step);
            result[r] += scale.x * product + scale.y * total;
#endif
        }
    }
#ifdef NORM
#ifdef SUBGROUPS
    squares = subgroupAdd(squares);
#endif
    let scale = inverseSqrt(dot(squares, vec4<f32>(1.0)) / f32(params.cols) + params.epsilon);
    for (var r = 0u; r < ROWS; r++) { result[r] *= scale; }
#endif
    for (var r = 0u; r < OUTPUTS; r++) {
        let output = column + 8u * r;
        if output < outputs {
            let at = params.first + output;
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
