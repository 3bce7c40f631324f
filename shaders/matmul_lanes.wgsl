// matmul_lanes: x Wᵀ for many rows of x, on software adapters.
// W: one part, [rows, cols] packed · x [count, cols] f32 · out [count, stride] f32 from column `first` on
// grid (outputs / (8 * OUTPUTS), count / COLUMNS); a workgroup of 8. A lane takes every eighth of 8 * ROWS neighbouring
// rows of W, with SWIGLU half of them gates and half their ups, and COLUMNS = EIGHTS * TALL rows of x; it unpacks a quad of
// each weight row once for all of those. The sums stay in registers and on the lane's stack; nothing is shared, nothing waits.
// An output is the sum of the dot products of its quads, in their order, whatever the tile: the same bits.
#import product
#import weight_pack
#import eight

@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const EIGHTS = #{EIGHTS}u;
const TALL = #{TALL}u;
// Neighbouring quads that one load of eight brings of each of TALL rows.
const SPAN = 8u / TALL;
const ROWS = #{ROWS}u;
#ifdef SWIGLU
const OUTPUTS = ROWS / 2u;
#else
const OUTPUTS = ROWS;
#endif

// Past the last row of x any value will do: its products are not stored.
fn input(i: u32) -> vec4<f32> { return x[min(i, params.count * params.cols / 4u - 1u)]; }

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, who: Lane) {
    let lane = loader(who);
#ifdef SWIGLU
    let outputs = params.rows / 2u;
#else
    let outputs = params.rows;
#endif
    let column = group.x * 8u * OUTPUTS + who.index;
    let top = group.y * TALL * EIGHTS;
    let packs = params.cols / (4u * PACK_QUADS);
    let quads = params.cols / 4u;
    let steps = packs / STEP_PACKS;
    var first: array<u32, ROWS>;
    var first_scale: array<u32, ROWS>;
    // Nested, so that each array is as long as the loop over it: such loops a driver unrolls into registers.
    var sums: array<array<array<f32, ROWS>, TALL>, EIGHTS>;
    for (var r = 0u; r < ROWS; r++) {
        let row = min(column + 8u * (r % OUTPUTS), outputs - 1u) + r / OUTPUTS * outputs;
        first[r] = row_start(row, packs);
        first_scale[r] = row_start(row, steps);
        for (var e = 0u; e < EIGHTS; e++) {
            for (var t = 0u; t < TALL; t++) { sums[e][t][r] = 0.0; }
        }
    }
    for (var p = 0u; p < packs; p++) {
        var packed: array<vec4<u32>, ROWS>;
        var scale: array<vec2<f32>, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            packed[r] = weight_pack(first[r] + TILE * p);
#ifdef F16
            scale[r] = vec2<f32>(1.0, 0.0);
#else
            scale[r] = weight_scale(first_scale[r] + TILE * (p / STEP_PACKS));
#endif
        }
        for (var i = 0u; i < PACK_QUADS; i += SPAN) {
            var weight: array<array<vec4<f32>, ROWS>, SPAN>;
            for (var s = 0u; s < SPAN; s++) {
                for (var r = 0u; r < ROWS; r++) { weight[s][r] = quad(packed[r], i + s) * scale[r].x + scale[r].y; }
            }
            for (var e = 0u; e < EIGHTS; e++) {
                var values = eight((top + TALL * e) * quads + p * PACK_QUADS + i, SPAN, quads, lane);
                for (var s = 0u; s < SPAN; s++) {
                    for (var t = 0u; t < TALL; t++) {
                        for (var r = 0u; r < ROWS; r++) { sums[e][t][r] += dot(values[SPAN * t + s], weight[s][r]); }
                    }
                }
            }
        }
    }
    for (var e = 0u; e < EIGHTS; e++) {
        for (var t = 0u; t < TALL; t++) {
            let y = top + TALL * e + t;
            for (var r = 0u; r < OUTPUTS; r++) {
                let output = column + 8u * r;
                if y < params.count && output < outputs {
                    let at = y * params.stride + params.first + output;
#ifdef SWIGLU
                    out[at] = sums[e][t][r] / (1.0 + exp(-sums[e][t][r])) * sums[e][t][r + OUTPUTS];
#else
#ifdef ADD
                    out[at] += sums[e][t][r];
#else
                    out[at] = sums[e][t][r];
#endif
#endif
                }
            }
        }
    }
}
