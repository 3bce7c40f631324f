// matvec_lanes: W x for one row x, on software adapters.
// W: one part, [rows, cols] packed · x, norm [cols] f32 · out [first + outputs] f32
// grid: lines of WORKGROUP lanes, 32768 to a grid row; one lane for two rows, `pairs` apart.
// Lane-uniform loads of x serve both rows. Every lane sums the squares of x itself: no barrier, no second pass.
#import weight_row

struct Params { rows: u32, cols: u32, first: u32, epsilon: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#ifdef NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;
#endif

@compute @workgroup_size(#{WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pairs = (params.rows + 1u) / 2u;
    let row = (group.y * 32768u + group.x) * #{WORKGROUP}u + lane;
    if row >= pairs { return; }
    let groups = params.cols / (4u * PACK_QUADS * GROUP_PACKS);
    let a = row * groups;
    let b = min(row + pairs, params.rows - 1u) * groups;
    var sum_a = vec4<f32>();
    var sum_b = vec4<f32>();
    var squares = vec4<f32>();
    for (var g = 0u; g < groups; g++) {
        var product_a = vec4<f32>();
        var product_b = vec4<f32>();
        var total = vec4<f32>();
        for (var p = 0u; p < GROUP_PACKS; p++) {
            let words_a = words[(a + g) * GROUP_PACKS + p];
            let words_b = words[(b + g) * GROUP_PACKS + p];
            for (var i = 0u; i < PACK_QUADS; i++) {
                let at = (g * GROUP_PACKS + p) * PACK_QUADS + i;
                var value = x[at];
#ifdef NORM
                squares += value * value;
                value *= norm[at];
#endif
                total += value;
                product_a += quad(words_a, i) * value;
                product_b += quad(words_b, i) * value;
            }
        }
#ifdef F16
        sum_a += product_a;
        sum_b += product_b;
#else
        let scale_a = unpack2x16float(scales[a + g]);
        let scale_b = unpack2x16float(scales[b + g]);
        sum_a += scale_a.x * product_a + scale_a.y * total;
        sum_b += scale_b.x * product_b + scale_b.y * total;
#endif
    }
    var result = vec2<f32>(dot(sum_a, vec4<f32>(1.0)), dot(sum_b, vec4<f32>(1.0)));
#ifdef NORM
    result *= inverseSqrt(dot(squares, vec4<f32>(1.0)) / f32(params.cols) + params.epsilon);
#endif
    let at = params.first + row;
#ifdef SWIGLU
    out[at] = result.x / (1.0 + exp(-result.x)) * result.y;
#else
#ifdef ADD
    out[at] += result.x;
    if row + pairs < params.rows { out[at + pairs] += result.y; }
#else
    out[at] = result.x;
    if row + pairs < params.rows { out[at + pairs] = result.y; }
#endif
#endif
}
