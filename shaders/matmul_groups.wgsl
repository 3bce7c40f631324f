// matmul_groups: x Wᵀ for many rows of x, on GPUs.
// W: one part, [rows, cols] packed · x [count, cols] f32 · out [count, stride] f32 from column `first` on
// grid (rows / 64, count / 64); a workgroup of 256 per 64x64 outputs, 4x4 to a lane.
// 32 columns of both operands are staged at a time, the weights unpacked on the way, as quads along the columns:
// tile[quad][row]. A lane's four rows lie 16 apart, so that neighbouring lanes read neighbouring quads. With
// SWIGLU the tile's first 32 weight rows are gates and the others their ups.
#import product
#import dot_add
#import weight_chunk

@group(0) @binding(1) var<storage, read> words: array<Chunk>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const ROWS = 64u;
const QUADS = 8u;
var<workgroup> tile_w: array<vec4<f32>, 512>;
var<workgroup> tile_x: array<vec4<f32>, 512>;

fn stage(row: u32, input: u32, chunk: u32, to: u32, inside: bool) {
    let chunks = params.cols / 8u;
    var w = array<vec4<f32>, 2>();
    var v = array<vec4<f32>, 2>();
    if inside {
        w = weight_chunk(row * chunks + chunk);
        let begin = 2u * (input * chunks + chunk);
        v = array<vec4<f32>, 2>(x[begin], x[begin + 1u]);
    }
    tile_w[to] = w[0];
    tile_w[to + ROWS] = w[1];
    tile_x[to] = v[0];
    tile_x[to + ROWS] = v[1];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Staging: four lanes to a row, a chunk of eight columns each.
    let line = lane / 4u;
    let part = lane % 4u;
#ifdef SWIGLU
    let outputs = params.rows / 2u;
    let width = 32u;
    let row = min(group.x * width + line % 32u, outputs - 1u) + line / 32u * outputs;
#else
    let outputs = params.rows;
    let width = 64u;
    let row = min(group.x * width + line, outputs - 1u);
#endif
    let top = group.y * ROWS;
    let input = min(top + line, params.count - 1u);
    let column = lane % 16u;
    let height = lane / 16u;
    let chunks = params.cols / 8u;
    var sums: array<vec4<f32>, 4>;
    for (var start = 0u; start < chunks; start += 4u) {
        stage(row, input, start + part, 2u * part * ROWS + line, start + part < chunks);
        workgroupBarrier();
        for (var k = 0u; k < QUADS; k++) {
            let begin = k * ROWS + column;
            let a = tile_w[begin];
            let b = tile_w[begin + 16u];
            let c = tile_w[begin + 32u];
            let d = tile_w[begin + 48u];
            let row = k * ROWS + height;
            let v = array<vec4<f32>, 4>(tile_x[row], tile_x[row + 16u], tile_x[row + 32u], tile_x[row + 48u]);
#repeat t 4
            sums[#{t}].x = dot_add(a, v[#{t}], sums[#{t}].x);
            sums[#{t}].y = dot_add(b, v[#{t}], sums[#{t}].y);
            sums[#{t}].z = dot_add(c, v[#{t}], sums[#{t}].z);
            sums[#{t}].w = dot_add(d, v[#{t}], sums[#{t}].w);
#end
        }
        workgroupBarrier();
    }
    for (var t = 0u; t < 4u; t++) {
        let y = top + height + 16u * t;
        if y >= params.count { break; }
        let at = y * params.stride + params.first;
#ifdef SWIGLU
        let result = vec4<f32>(sums[t].xy / (1.0 + exp(-sums[t].xy)) * sums[t].zw, 0.0, 0.0);
#else
        let result = sums[t];
#endif
        for (var i = 0u; i < width / 16u; i++) {
            let to = group.x * width + column + 16u * i;
            if to < outputs {
#ifdef ADD
                out[at + to] += result[i];
#else
                out[at + to] = result[i];
#endif
            }
        }
    }
}
