// matmul_matrix: x Wᵀ for many rows of x, on GPUs with cooperative matrices.
// W: one part, [rows, cols] packed · x [count, cols] halves, two to a word, or with SINGLE f32
// out [slices, count, stride] from column `first` on: f32, or with HALVES halves, two to a word
// grid (count / INPUTS, rows / ROWS, slices): tiles of the same weight rows are neighbours, so that one reads what
// another brought to the cache. A slice is `slice` steps of the columns; with more than one, matmul_join adds them.
// A workgroup has a tile of INPUTS rows of x by ROWS weight rows. STEP columns of both are staged at a time as halves, the
// weights unpacked on the way; then each subgroup multiplies its TALL x WIDE fragments of 16 by 16, and sums in f32.
// Each fragment is a variable of its own: an array of them leaves the registers. Nothing is loaded ahead: other workgroups
// hide the wait, and registers for what is ahead would leave room for fewer of them.
// With SWIGLU the tile's first weight rows are gates and the second half their ups.
enable f16;
enable wgpu_cooperative_matrix;
#import product

@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
#ifdef SINGLE
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;
#endif
#ifdef HALVES
@group(0) @binding(4) var<storage, read_write> out: array<u32>;
#else
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
#endif

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const INPUTS = #{INPUTS}u;
const ROWS = #{ROWS}u;
const STEP = #{STEP}u;
// Subgroups side by side along the weight rows, and all of them.
const BESIDE = ROWS / (16u * #{WIDE}u);
const TEAMS = INPUTS / (16u * #{TALL}u) * BESIDE;
const LANES = 32u * TEAMS;
// Quads from row to row of a tile: a step, and eight values that keep the rows of a fragment in banks of their own. Rows
// must begin at multiples of 16 bytes.
const PITCH = STEP / 4u + 2u;
var<workgroup> tile_x: array<vec4<f16>, INPUTS * PITCH>;
var<workgroup> tile_w: array<vec4<f16>, ROWS * PITCH>;
// A fragment's sums for each subgroup: rows of 16, and four more for the banks.
const LINE = 20u;
const STRIP = 16u * LINE;
var<workgroup> strips: array<f32, TEAMS * STRIP>;

// Four halves of two words. (naga turns no u32 into a vec2<f16>; the compilers see that nothing is rounded.)
fn quad(low: u32, high: u32) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(low), unpack2x16float(high)));
}

fn pair(v: vec2<f32>) -> u32 {
    return pack2x16float(clamp(v, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}

#ifdef SINGLE
fn input(at: u32) -> vec4<u32> {
    let low = x[2u * at];
    let high = x[2u * at + 1u];
    return vec4<u32>(pair(low.xy), pair(low.zw), pair(high.xy), pair(high.zw));
}
#else
fn input(at: u32) -> vec4<u32> { return x[at]; }
#endif

// Values of four words, and quads of one. Codes are read by an OR with 1024 as a half, whose last bits are ones.
#ifdef F16
const PACK = 8u;
fn stage(pack: vec4<u32>, scale: u32, to: u32) {
    tile_w[to] = quad(pack.x, pack.y);
    tile_w[to + 1u] = quad(pack.z, pack.w);
}
#else
fn codes(bits: u32, scale: vec2<f32>) -> vec2<f32> {
    return fma(unpack2x16float(bits | 0x64006400u), vec2<f32>(scale.x), vec2<f32>(scale.y));
}
#ifdef Q8
const PACK = 16u;
fn unpack(word: u32, scale: vec2<f32>, to: u32) {
    let even = codes(word & 0x00FF00FFu, scale);
    let odd = codes((word >> 8u) & 0x00FF00FFu, scale);
    tile_w[to] = vec4<f16>(vec4<f32>(even.x, odd.x, even.y, odd.y));
}
#else
const PACK = 32u;
fn unpack(word: u32, scale: vec2<f32>, to: u32) {
    let a = codes(word & 0x000F000Fu, scale);
    let b = codes((word >> 8u) & 0x000F000Fu, scale);
    let c = codes((word >> 4u) & 0x000F000Fu, scale);
    let d = codes((word >> 12u) & 0x000F000Fu, scale);
    tile_w[to] = vec4<f16>(vec4<f32>(a.x, b.x, a.y, b.y));
    tile_w[to + 1u] = vec4<f16>(vec4<f32>(c.x, d.x, c.y, d.y));
}
#endif
fn stage(pack: vec4<u32>, packed: u32, to: u32) {
    let s = unpack2x16float(packed);
    let scale = vec2<f32>(s.x, fma(s.x, -1024.0, s.y));
    unpack(pack.x, scale, to);
    unpack(pack.y, scale, to + PACK / 16u);
    unpack(pack.z, scale, to + PACK / 8u);
    unpack(pack.w, scale, to + PACK / 16u * 3u);
}
#endif

// The weight row in line `line` of the tile, and the tile's outputs.
#ifdef SWIGLU
const WIDTH = ROWS / 2u;
fn weight_row(tile: u32, line: u32) -> u32 {
    let outputs = params.rows / 2u;
    return min(tile * WIDTH + line % WIDTH, outputs - 1u) + line / WIDTH * outputs;
}
#else
const WIDTH = ROWS;
fn weight_row(tile: u32, line: u32) -> u32 { return min(tile * WIDTH + line, params.rows - 1u); }
#endif

fn output(at: u32) -> f32 {
#ifdef SWIGLU
    let gate = strips[at];
    return gate / (1.0 + exp(-gate)) * strips[at + BESIDE / 2u * STRIP];
#else
    return strips[at];
#endif
}

// Ends 16 rows of x, `y` and those below it, by 16 outputs from `column` on, whose sums are in a subgroup's strip.
fn finish(y: u32, column: u32, plane: u32, strip: u32, lane: u32) {
#ifdef SWIGLU
    let outputs = params.rows / 2u;
#else
    let outputs = params.rows;
#endif
#ifdef HALVES
    for (var i = lane; i < 128u; i += 32u) {
        let to = column + 2u * (i % 8u);
        if y + i / 8u < params.count && to < outputs {
            let sums = strip + i / 8u * LINE + 2u * (i % 8u);
            let at = (plane + y + i / 8u) * params.stride + params.first + to;
            out[at / 2u] = pair(vec2<f32>(output(sums), output(sums + 1u)));
        }
    }
#else
    for (var i = lane; i < 256u; i += 32u) {
        let to = column + i % 16u;
        if y + i / 16u < params.count && to < outputs {
            let at = (plane + y + i / 16u) * params.stride + params.first + to;
#ifdef ADD
            out[at] += output(strip + i / 16u * LINE + i % 16u);
#else
            out[at] = output(strip + i / 16u * LINE + i % 16u);
#endif
        }
    }
#endif
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) team: u32,
) {
    // Staging: neighbouring lanes along a row, 16 bytes each.
    const X_LANES = STEP / 8u;
    const W_LANES = STEP / PACK;
    let x_part = lane % X_LANES;
    let w_part = lane % W_LANES;
    let to_x = lane / X_LANES * PITCH + 2u * x_part;
    let to_w = lane / W_LANES * PITCH + PACK / 4u * w_part;
    let x_packs = params.cols / 8u;
    let w_packs = params.cols / PACK;
    let top = group.x * INPUTS;
#repeat i #{X_LOADS}
    let from_x_#{i} = min(top + lane / X_LANES + #{i}u * (LANES / X_LANES), params.count - 1u) * x_packs;
#end
#repeat i #{W_LOADS}
    let from_w_#{i} = weight_row(group.y, lane / W_LANES + #{i}u * (LANES / W_LANES)) * w_packs;
#end

    let own_top = team / BESIDE * (16u * #{TALL}u);
    let own_first = team % BESIDE * (16u * #{WIDE}u);
    let own_x = own_top * PITCH;
    let own_w = own_first * PITCH;
#repeat i #{TALL}
#repeat j #{WIDE}
    var sum_#{i}_#{j} = Sum();
#end
#end
    let begin = group.z * params.slice;
    let end = min(begin + params.slice, (params.cols + STEP - 1u) / STEP);
    for (var step = begin; step < end; step++) {
        // Beyond the columns weights are zeros, and x is what its row has in its last ones.
        let x_at = min(step * X_LANES + x_part, x_packs - 1u);
        let w_at = min(step * W_LANES + w_part, w_packs - 1u);
        let inside = step * W_LANES + w_part < w_packs;
        // All loads come before the first store, so that they are under way together.
#repeat i #{X_LOADS}
        let x_#{i} = input(from_x_#{i} + x_at);
#end
#repeat i #{W_LOADS}
#ifdef F16
        let w_#{i} = select(vec4<u32>(), words[from_w_#{i} + w_at], inside);
        let scale_#{i} = 0u;
#else
        let w_#{i} = words[from_w_#{i} + w_at];
        let scale_#{i} = select(0u, scales[(from_w_#{i} + w_at) * PACK / 32u], inside);
#endif
#end
#repeat i #{X_LOADS}
        tile_x[to_x + #{i}u * (LANES / X_LANES) * PITCH] = quad(x_#{i}.x, x_#{i}.y);
        tile_x[to_x + #{i}u * (LANES / X_LANES) * PITCH + 1u] = quad(x_#{i}.z, x_#{i}.w);
#end
#repeat i #{W_LOADS}
        stage(w_#{i}, scale_#{i}, to_w + #{i}u * (LANES / W_LANES) * PITCH);
#end
        workgroupBarrier();
#repeat k #{DEEP}
#repeat i #{TALL}
        let x_#{k}_#{i} = coopLoadT<Left>(&tile_x[own_x + #{i}u * 16u * PITCH + #{k}u * 4u], PITCH);
#end
#repeat j #{WIDE}
        let w_#{k}_#{j} = coopLoad<Right>(&tile_w[own_w + #{j}u * 16u * PITCH + #{k}u * 4u], PITCH);
#repeat i #{TALL}
        sum_#{i}_#{j} = coopMultiplyAdd(x_#{k}_#{i}, w_#{k}_#{j}, sum_#{i}_#{j});
#end
#end
#end
        workgroupBarrier();
    }

    let strip = team * STRIP;
#repeat i #{TALL}
#repeat j #{WIDE}
    coopStoreT(sum_#{i}_#{j}, &strips[strip], LINE);
    workgroupBarrier();
    if own_first < WIDTH {
        let column = group.y * WIDTH + own_first + #{j}u * 16u;
        finish(top + own_top + #{i}u * 16u, column, group.z * params.count, strip, lane % 32u);
    }
    workgroupBarrier();
#end
#end
}
