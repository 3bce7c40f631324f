// matmul_few: x Wᵀ for a few rows of x, on GPUs with cooperative matrices.
// W: one part, [rows, cols] packed · x [count, cols] halves, two to a word, or with SINGLE f32
// out [slices, count, stride] from column `first` on: f32, or with HALVES halves, two to a word
// grid (count / INPUTS, rows / ROWS, slices): a slice is `slice` steps of the columns; with more than one, matmul_join adds them.
// Memory bounds such a product, so what counts is how much of it is under way. A workgroup has a tile of INPUTS rows of x by
// ROWS weight rows; its subgroups take turns at the steps and end with sums of the whole tile each, which are added at last.
// While a subgroup multiplies a step, its weights of the next one are loaded.
// It keeps the step's x in fragments and unpacks 16 weight rows at a time to where x was. Each fragment is a variable of its
// own: an array of them leaves the registers. With SWIGLU the tile's first weight rows are gates and the second half their ups.
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
alias Two = vec2<f16>;
alias Four = vec4<f16>;

const INPUTS = 16u * #{TALL}u;
const ROWS = 32u * #{PAIRS}u;
const TEAMS = #{TEAMS}u;
const LANES = 32u * TEAMS;
// Values of four words, and the columns of a step: W_LANES lanes read them of a weight row, X_LANES of a row of x.
#ifdef Q8
const PACK = 16u;
#else
const PACK = 32u;
#endif
const STEP = 16u * #{DEEP}u;
const W_LANES = STEP / PACK;
const X_LANES = STEP / 8u;
// Quads from row to row of a fragment: a step, and eight values that keep the rows in banks of their own. Rows must begin
// at multiples of 16 bytes.
const PITCH = STEP / 4u + 2u;
const BLOCK = 16u * PITCH;
// 16 rows of x or of weights for each subgroup.
var<workgroup> tile: array<Four, TEAMS * BLOCK>;
// A fragment's sums of each subgroup: rows of 16, and four more for the banks.
const LINE = 20u;
const STRIP = 16u * LINE;
var<workgroup> strips: array<f32, TEAMS * STRIP>;

fn four(a: Two, b: Two) -> Four {
    return Four(a, b);
}

// (naga turns no u32 into a vec2<f16>; the compilers see that nothing is rounded.)
fn two(word: u32) -> Two {
    return Two(unpack2x16float(word));
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

fn firsts(a: u32, b: u32) -> Two { return two((a & 0xFFFFu) | (b << 16u)); }
fn seconds(a: u32, b: u32) -> Two { return two((a >> 16u) | (b & 0xFFFF0000u)); }

// Codes, by an OR with 1024 as a half, whose last bits are ones. It leaves two of them in a word, and the columns of a
// fragment are in the order that this gives: in Q4 0 2 4 6 1 3 5 7, in Q8 0 2 1 3. x is brought to that order as well: it
// is less than the weights.
fn low(word: u32) -> Two { return two(word | 0x64006400u) - Two(1024.0); }
#ifdef Q8
fn stage_x(pack: vec4<u32>, to: u32) {
    tile[to] = four(firsts(pack.x, pack.y), seconds(pack.x, pack.y));
    tile[to + 1u] = four(firsts(pack.z, pack.w), seconds(pack.z, pack.w));
}
fn unpack(word: u32, scale: Two, minimum: Two, to: u32) {
    let even = fma(low(word & 0x00FF00FFu), scale, minimum);
    let odd = fma(low((word >> 8u) & 0x00FF00FFu), scale, minimum);
    tile[to] = four(even, odd);
}
#else
fn stage_x(pack: vec4<u32>, to: u32) {
    tile[to] = four(firsts(pack.x, pack.y), firsts(pack.z, pack.w));
    tile[to + 1u] = four(seconds(pack.x, pack.y), seconds(pack.z, pack.w));
}
// High nibbles are 1024 and 16 times the code.
fn high(word: u32) -> Two { return fma(two(word | 0x64006400u), Two(0.0625), Two(-64.0)); }
fn unpack(word: u32, scale: Two, minimum: Two, to: u32) {
    let next = word >> 8u;
    let a = fma(low(word & 0x000F000Fu), scale, minimum);
    let b = fma(high(word & 0x00F000F0u), scale, minimum);
    let c = fma(low(next & 0x000F000Fu), scale, minimum);
    let d = fma(high(next & 0x00F000F0u), scale, minimum);
    tile[to] = four(a, b);
    tile[to + 1u] = four(c, d);
}
#endif
fn stage(pack: vec4<u32>, packed: u32, to: u32) {
    let s = two(packed);
    for (var i = 0u; i < 4u; i++) { unpack(pack[i], s.xx, s.yy, to + PACK / 16u * i); }
}

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

// Pairs of a fragment's sums that a lane ends.
const ENDS = (128u + LANES - 1u) / LANES;
#ifdef SWIGLU
var<private> gates: array<vec2<f32>, ENDS>;
#endif

// Adds what the subgroups have in their strips, and stores it: 16 rows of x, `y` and those below it, by 16 outputs from
// `column` on. With SWIGLU the sums of the tile's first half are kept for those of the second.
fn finish(y: u32, column: u32, plane: u32, half: u32, lane: u32) {
#ifdef SWIGLU
    let outputs = params.rows / 2u;
#else
    let outputs = params.rows;
#endif
    for (var n = 0u; n < ENDS; n++) {
        let i = n * LANES + lane;
        if i < 128u {
            var sums = vec2<f32>();
            for (var team = 0u; team < TEAMS; team++) {
                let own = team * STRIP + i / 8u * LINE + 2u * (i % 8u);
                sums += vec2<f32>(strips[own], strips[own + 1u]);
            }
#ifdef SWIGLU
            let gate = gates[n];
            gates[n] = sums;
            sums *= gate / (1.0 + exp(-gate));
            let whole = half == 1u;
#else
            let whole = true;
#endif
            let to = column + 2u * (i % 8u);
            let at = (plane + y + i / 8u) * params.stride + params.first + to;
            if whole && y + i / 8u < params.count {
#ifdef HALVES
                if to < outputs { out[at / 2u] = pair(sums); }
#else
#ifdef ADD
                if to < outputs { out[at] += sums.x; }
                if to + 1u < outputs { out[at + 1u] += sums.y; }
#else
                if to < outputs { out[at] = sums.x; }
                if to + 1u < outputs { out[at + 1u] = sums.y; }
#endif
#endif
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) team: u32,
) {
    let own = team * BLOCK;
    let x_line = lane % 32u / X_LANES;
    let x_part = lane % X_LANES;
    let w_line = lane % 32u / W_LANES;
    let w_part = lane % W_LANES;
    let to_x = own + x_line * PITCH + 2u * x_part;
    let to_w = own + w_line * PITCH + PACK / 4u * w_part;
    let x_packs = params.cols / 8u;
    let w_packs = params.cols / PACK;
    let top = group.x * INPUTS;
#repeat half 2
#repeat j #{PAIRS}
#repeat n #{W_LOADS}
    let from_#{half}_#{j}_#{n} = weight_row(group.y, 16u * (#{half}u * #{PAIRS}u + #{j}u) + 32u / W_LANES * #{n}u + w_line) * w_packs;
#end
#end
#end
#repeat half 2
#repeat j #{PAIRS}
#repeat i #{TALL}
    var sum_#{i}_#{half}_#{j} = Sum();
#end
#end
#end
    let begin = group.z * params.slice;
    let end = min(begin + params.slice, (params.cols + STEP - 1u) / STEP);
    var at = min((begin + team) * W_LANES + w_part, w_packs - 1u);
#repeat half 2
#repeat j #{PAIRS}
#repeat n #{W_LOADS}
    var words_#{half}_#{j}_#{n} = words[from_#{half}_#{j}_#{n} + at];
    var scale_#{half}_#{j}_#{n} = scales[(from_#{half}_#{j}_#{n} + at) * PACK / 32u];
#end
#end
#end
    for (var turn = begin; turn < end; turn += TEAMS) {
        let step = turn + team;
        // All loads come before the first store, so that they are under way together. Beyond the columns, or the slice,
        // weights become zeros, and x is what its row has in its last columns.
#repeat i #{TALL}
#repeat n #{DEEP}
        let row_#{i}_#{n} = min(top + 16u * #{i}u + 32u / X_LANES * #{n}u + x_line, params.count - 1u);
        let pack_#{i}_#{n} = input(row_#{i}_#{n} * x_packs + min(step * X_LANES + x_part, x_packs - 1u));
#end
#end
        let inside = step < end && step * W_LANES + w_part < w_packs;
        at = min((step + TEAMS) * W_LANES + w_part, w_packs - 1u);
#repeat half 2
#repeat j #{PAIRS}
#repeat n #{W_LOADS}
        let next_words_#{half}_#{j}_#{n} = words[from_#{half}_#{j}_#{n} + at];
        let next_scale_#{half}_#{j}_#{n} = scales[(from_#{half}_#{j}_#{n} + at) * PACK / 32u];
#end
#end
#end
#repeat i #{TALL}
#repeat n #{DEEP}
        stage_x(pack_#{i}_#{n}, to_x + #{n}u * (32u / X_LANES) * PITCH);
#end
        workgroupBarrier();
#repeat k #{DEEP}
        let x_#{i}_#{k} = coopLoadT<Left>(&tile[own + 4u * #{k}u], PITCH);
#end
        workgroupBarrier();
#end
#repeat half 2
#repeat j #{PAIRS}
#repeat n #{W_LOADS}
        stage(words_#{half}_#{j}_#{n}, select(0u, scale_#{half}_#{j}_#{n}, inside), to_w + #{n}u * (32u / W_LANES) * PITCH);
#end
        workgroupBarrier();
#repeat k #{DEEP}
        let w_#{half}_#{j}_#{k} = coopLoad<Right>(&tile[own + 4u * #{k}u], PITCH);
#repeat i #{TALL}
        sum_#{i}_#{half}_#{j} = coopMultiplyAdd(x_#{i}_#{k}, w_#{half}_#{j}_#{k}, sum_#{i}_#{half}_#{j});
#end
#end
        workgroupBarrier();
#end
#end
#repeat half 2
#repeat j #{PAIRS}
#repeat n #{W_LOADS}
        words_#{half}_#{j}_#{n} = next_words_#{half}_#{j}_#{n};
        scale_#{half}_#{j}_#{n} = next_scale_#{half}_#{j}_#{n};
#end
#end
#end
    }

    let strip = team * STRIP;
    let plane = group.z * params.count;
#repeat i #{TALL}
#repeat j #{PAIRS}
#repeat half 2
    coopStoreT(sum_#{i}_#{half}_#{j}, &strips[strip], LINE);
    workgroupBarrier();
#ifdef SWIGLU
    finish(top + 16u * #{i}u, group.y * WIDTH + 16u * #{j}u, plane, #{half}u, lane);
#else
    finish(top + 16u * #{i}u, group.y * WIDTH + 16u * (#{half}u * #{PAIRS}u + #{j}u), plane, #{half}u, lane);
#endif
    workgroupBarrier();
#end
#end
#end
}
