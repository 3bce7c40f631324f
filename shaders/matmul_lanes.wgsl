// matmul_lanes: x Wᵀ for many rows of x, on software adapters.
// W: one part, [rows, cols] packed · x [count, cols] f32 · out [count, stride] f32 from column `first` on
// grid (rows / (4 * WORKGROUP), count / TILE); one lane for four rows of W and TILE rows of x.
// The lane unpacks a quad of each of its weight rows once for all its x rows, whose loads are lane-uniform; sums
// stay in registers. With SWIGLU two of the four weight rows are gates and two are their ups.
#import weight_row

struct Params { rows: u32, cols: u32, first: u32, stride: u32, count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const TILE = #{TILE}u;

@compute @workgroup_size(#{WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = group.x * #{WORKGROUP}u + lane;
#ifdef SWIGLU
    let outputs = params.rows / 2u;
    let column = place * 2u;
    let row = min(vec4<u32>(0u, 1u, 0u, 1u) + column, vec4<u32>(outputs - 1u)) + vec4<u32>(0u, 0u, 1u, 1u) * outputs;
#else
    let outputs = params.rows;
    let column = place * 4u;
    let row = min(vec4<u32>(0u, 1u, 2u, 3u) + column, vec4<u32>(outputs - 1u));
#endif
    let packs = params.cols / (4u * PACK_QUADS);
    let quads = params.cols / 4u;
    let begin = row * packs;
    var sums: array<vec4<f32>, TILE>;
    for (var t = 0u; t < TILE; t++) { sums[t] = vec4<f32>(); }
    let top = group.y * TILE;
    for (var p = 0u; p < packs; p++) {
        let at = begin + p;
        let words_a = words[at.x];
        let words_b = words[at.y];
        let words_c = words[at.z];
        let words_d = words[at.w];
#ifdef F16
        let a = vec2<f32>(1.0, 0.0);
        let b = a;
        let c = a;
        let d = a;
#else
        let a = unpack2x16float(scales[at.x / GROUP_PACKS]);
        let b = unpack2x16float(scales[at.y / GROUP_PACKS]);
        let c = unpack2x16float(scales[at.z / GROUP_PACKS]);
        let d = unpack2x16float(scales[at.w / GROUP_PACKS]);
#endif
        for (var i = 0u; i < PACK_QUADS; i++) {
            let weight = transpose(mat4x4<f32>(
                quad(words_a, i) * a.x + a.y,
                quad(words_b, i) * b.x + b.y,
                quad(words_c, i) * c.x + c.y,
                quad(words_d, i) * d.x + d.y,
            ));
            for (var t = 0u; t < TILE; t++) {
                let value = x[min(top + t, params.count - 1u) * quads + p * PACK_QUADS + i];
                sums[t] += value.x * weight[0] + value.y * weight[1] + value.z * weight[2] + value.w * weight[3];
            }
        }
    }
    for (var t = 0u; t < TILE; t++) {
        if top + t >= params.count { break; }
        let at = (top + t) * params.stride + params.first + column;
#ifdef SWIGLU
        let result = vec4<f32>(sums[t].xy / (1.0 + exp(-sums[t].xy)) * sums[t].zw, 0.0, 0.0);
        let width = 2u;
#else
        let result = sums[t];
        let width = 4u;
#endif
        for (var i = 0u; i < width; i++) {
            if column + i < outputs {
#ifdef ADD
                out[at + i] += result[i];
#else
                out[at + i] = result[i];
#endif
            }
        }
    }
}
