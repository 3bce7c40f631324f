// matmul_matrix: x Wᵀ for many rows of x, on GPUs with cooperative matrices. Not yet run on hardware.
// W: one part, [rows, cols] packed · x [count, cols] f32 · out [count, stride] f32 from column `first` on
// grid (rows / 64, count / COLUMNS); a workgroup of four subgroups per tile of 64 weight rows and COLUMNS rows of x, 64
// of them if WIDE, else 32.
// 32 columns of both operands are staged at a time as halves, the weights unpacked on the way. A subgroup multiplies
// 16 weight rows with all rows of x, 16 by 16 by 16, and sums in f32. What of x is beyond a half's range is cut off.
// With SWIGLU the tile's first 32 weight rows are gates and the others their ups.
enable f16;
enable wgpu_cooperative_matrix;
#import weight_chunk

struct Params { rows: u32, cols: u32, first: u32, stride: u32, count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<Chunk>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

#ifdef WIDE
const COLUMNS = 64u;
#else
const COLUMNS = 32u;
#endif
const LANES = 128u;
const ROWS = 64u;
// Quads from row to row of a tile: 32 columns, and 8 that keep the rows of a fragment in banks of their own.
const PITCH = 10u;
var<workgroup> tile_w: array<vec4<f16>, ROWS * PITCH>;
var<workgroup> tile_x: array<vec4<f16>, COLUMNS * PITCH>;
// 16 rows of x by 64 weight rows.
var<workgroup> products: array<f32, 16u * ROWS>;

fn halves(v: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
}

fn stage_w(row: u32, chunk: u32, to: u32) {
    let chunks = params.cols / 8u;
    var w = array<vec4<f32>, 2>();
    if chunk < chunks { w = weight_chunk(row * chunks + chunk); }
    tile_w[to] = halves(w[0]);
    tile_w[to + 1u] = halves(w[1]);
}

fn stage_x(input: u32, chunk: u32, to: u32) {
    let chunks = params.cols / 8u;
    var v = array<vec4<f32>, 2>();
    if chunk < chunks {
        let at = 2u * (input * chunks + chunk);
        v = array<vec4<f32>, 2>(x[at], x[at + 1u]);
    }
    tile_x[to] = halves(v[0]);
    tile_x[to + 1u] = halves(v[1]);
}

// Ends the 16 rows of x from `top` on, whose products are in shared memory.
fn finish(top: u32, column: u32, lane: u32) {
#ifdef SWIGLU
    let outputs = params.rows / 2u;
    let width = ROWS / 2u;
#else
    let outputs = params.rows;
    let width = ROWS;
#endif
    for (var i = lane; i < 16u * width; i += LANES) {
        let y = top + i / width;
        let to = column * width + i % width;
        if y < params.count && to < outputs {
            let begin = i / width * ROWS + i % width;
            let at = y * params.stride + params.first + to;
#ifdef SWIGLU
            let gate = products[begin];
            out[at] = gate / (1.0 + exp(-gate)) * products[begin + width];
#else
#ifdef ADD
            out[at] += products[begin];
#else
            out[at] = products[begin];
#endif
#endif
        }
    }
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) team: u32,
) {
    // Staging: four lanes to a row, a chunk of eight columns each.
    let line = lane / 4u;
    let part = lane % 4u;
#ifdef SWIGLU
    let outputs = params.rows / 2u;
    let row = min(group.x * 32u + line, outputs - 1u);
    let rows = vec2<u32>(row, row + outputs);
#else
    let row = group.x * ROWS + line;
    let rows = min(vec2<u32>(row, row + 32u), vec2<u32>(params.rows - 1u));
#endif
    let top = group.y * COLUMNS;
    let inputs = min(vec2<u32>(top + line, top + line + 32u), vec2<u32>(params.count - 1u));
    let to = line * PITCH + 2u * part;
    let chunks = params.cols / 8u;
    let own = 16u * team;
    var sum_0 = coop_mat16x16<f32, C>();
    var sum_1 = coop_mat16x16<f32, C>();
#ifdef WIDE
    var sum_2 = coop_mat16x16<f32, C>();
    var sum_3 = coop_mat16x16<f32, C>();
#endif
    for (var start = 0u; start < chunks; start += 4u) {
        stage_w(rows.x, start + part, to);
        stage_w(rows.y, start + part, to + 32u * PITCH);
        stage_x(inputs.x, start + part, to);
#ifdef WIDE
        stage_x(inputs.y, start + part, to + 32u * PITCH);
#endif
        workgroupBarrier();
        for (var k = 0u; k < 8u; k += 4u) {
            let w = coopLoad<coop_mat16x16<f16, B>>(&tile_w[own * PITCH + k], PITCH);
            let x_0 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[k], PITCH);
            let x_1 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[16u * PITCH + k], PITCH);
            sum_0 = coopMultiplyAdd(x_0, w, sum_0);
            sum_1 = coopMultiplyAdd(x_1, w, sum_1);
#ifdef WIDE
            let x_2 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[32u * PITCH + k], PITCH);
            let x_3 = coopLoadT<coop_mat16x16<f16, A>>(&tile_x[48u * PITCH + k], PITCH);
            sum_2 = coopMultiplyAdd(x_2, w, sum_2);
            sum_3 = coopMultiplyAdd(x_3, w, sum_3);
#endif
        }
        workgroupBarrier();
    }
    coopStoreT(sum_0, &products[own], ROWS);
    workgroupBarrier();
    finish(top, group.x, lane);
    workgroupBarrier();
    coopStoreT(sum_1, &products[own], ROWS);
    workgroupBarrier();
    finish(top + 16u, group.x, lane);
#ifdef WIDE
    workgroupBarrier();
    coopStoreT(sum_2, &products[own], ROWS);
    workgroupBarrier();
    finish(top + 32u, group.x, lane);
    workgroupBarrier();
    coopStoreT(sum_3, &products[own], ROWS);
    workgroupBarrier();
    finish(top + 48u, group.x, lane);
#endif
}
