// attention_prefill_matrix: causal attention of a block of queries over dense keys and values, on GPUs with cooperative
// matrices.
// q [count, H * hd] f32 · k, v [prefix + count, G * hd] halves, two to a word · out [count, H * hd] f32, or with HALVES
// halves · lse [count, H] · bias [biased, G] with BIASED, added to the scaled scores of the first rows
// grid (count * H / G / 64, G): a workgroup of four subgroups per 64 rows, which are the queries' heads that share a KV head:
// the heads of one query, then of the next. A subgroup has 16 of them, their queries in fragments of 16 by 16.
// The workgroup walks the keys that any of its rows sees, 32 at a time: scores by the units, to shared memory as f32; the
// softmax, two lanes to a row; weights to shared memory as halves; the values by the units, summed in fragments.
// Fragments cannot be scaled by row, so a row's weights are relative to a reference that follows its maximum only when that
// has risen by more than 2^8. That is rare after the first keys; then the sums go through shared memory once.
// Each fragment is a variable of its own: an array of them leaves the registers. What coopStore takes must have a name.
enable f16;
enable wgpu_cooperative_matrix;
// naga takes what is read from memory for different in every lane, and would refuse matrix operations under an `if` on it.
diagnostic(off, derivative_uniformity);
#import stored

struct Params { count: u32, prefix: u32, heads: u32, group: u32, scale: f32, biased: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<Stored>;
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;
#ifdef BIASED
@group(0) @binding(6) var<storage, read> bias: array<f32>;
#endif

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

const QUADS = #{HEAD_DIM}u / 4u;
const LANES = 128u;
const ROWS = 64u;
const KEYS = 32u;
const EMPTY = -1e30;
const LOG2_E = 1.4426950408889634;
// Quads from row to row: of keys and values, of scores, of weights. Rows begin at multiples of 16 bytes, and those of a
// fragment in banks of their own.
const PITCH = QUADS + 2u;
const SCORES = KEYS / 4u + 1u;
const WEIGHTS = KEYS / 4u + 2u;
// The keys, then the values of a step.
var<workgroup> tile: array<vec4<f16>, KEYS * PITCH>;
// The scores, and two fragments of sums, 32 dimensions, where lanes work on them.
var<workgroup> strips: array<vec4<f32>, ROWS * SCORES>;
// The weights, and before the first of them 32 dimensions of queries.
var<workgroup> weights: array<vec4<f16>, ROWS * WEIGHTS>;
// Whether a row's reference has moved in an even or an odd step. There are four of them because fragments are loaded from
// multiples of 16 bytes: eight bytes here make the driver put what lies behind them where it cannot be.
var<workgroup> moved: array<u32, 4>;

// Four halves of two words. (naga turns no u32 into a vec2<f16>; the compilers see that nothing is rounded.)
fn quad(low: u32, high: u32) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(low), unpack2x16float(high)));
}

fn stage(pack: vec4<u32>, to: u32) {
    tile[to] = quad(pack.x, pack.y);
    tile[to + 1u] = quad(pack.z, pack.w);
}

// Scores of four keys from `key` on for a row that sees the first `visible` ones, in powers of two.
fn seen(scores: vec4<f32>, key: u32, visible: u32, kv_head: u32) -> vec4<f32> {
    let keys = vec4<u32>(key) + vec4<u32>(0u, 1u, 2u, 3u);
    var all = scores;
#ifdef BIASED
    for (var i = 0u; i < 4u; i++) {
        if keys[i] < params.biased { all[i] += bias[keys[i] * (params.heads / params.group) + kv_head] * LOG2_E; }
    }
#endif
    return select(vec4<f32>(EMPTY), all, keys < vec4<u32>(visible));
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) team: u32,
) {
    let kv_head = group.y;
    let kv_heads = params.heads / params.group;
    let rows = params.count * params.group;
    // The last rows see the most keys: they come first.
    let top = ((rows + ROWS - 1u) / ROWS - 1u - group.x) * ROWS;
    // Keys that any of the rows sees, and first ones that need no second look: all of the subgroup's rows see them.
    let end = params.prefix + min(top + ROWS - 1u, rows - 1u) / params.group + 1u;
    let seen_by_all = params.prefix + (top + 16u * team) / params.group + 1u;

    // A lane's row, and which half of its scores, and of 32 of its dimensions, is the lane's.
    let own = top + 16u * team + lane % 32u / 2u;
    let side = lane % 2u;
    let row = min(own, rows - 1u);
    let at_row = row / params.group * params.heads + kv_head * params.group + row % params.group;
    let visible = params.prefix + row / params.group + 1u;
    let team_strips = team * 16u * SCORES;
    let team_weights = team * 16u * WEIGHTS;
    let strip = team_strips + lane % 32u / 2u * SCORES;
    let own_strip = strip + 4u * side;
    let other_strip = strip + 4u * (1u - side);
    let own_weights = team_weights + lane % 32u / 2u * WEIGHTS + 4u * side;

#repeat h #{PAIRS}
    for (var i = 0u; i < 4u; i++) {
        let queries = q[at_row * QUADS + 8u * #{h}u + 4u * side + i] * (params.scale * LOG2_E);
        weights[own_weights + i] = vec4<f16>(clamp(queries, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
    }
    workgroupBarrier();
    let q_#{h}_0 = coopLoadT<Left>(&weights[team_weights], WEIGHTS);
    let q_#{h}_1 = coopLoadT<Left>(&weights[team_weights + 4u], WEIGHTS);
    workgroupBarrier();
    var sum_#{h}_0 = Sum();
    var sum_#{h}_1 = Sum();
#end

    // Staging: neighbouring lanes along a row, eight values each.
    const PACKS = QUADS / 2u;
#repeat s #{LOADS}
    let key_#{s} = (#{s}u * LANES + lane) / PACKS;
    let part_#{s} = (#{s}u * LANES + lane) % PACKS;
    let to_#{s} = key_#{s} * PITCH + 2u * part_#{s};
    var k_#{s} = k[(min(key_#{s}, end - 1u) * kv_heads + kv_head) * PACKS + part_#{s}];
#end
#repeat s #{LOADS}
    stage(k_#{s}, to_#{s});
#end
    if lane < 4u { moved[lane] = 0u; }
    var reference = EMPTY;
    var total = 0.0;
    workgroupBarrier();

    for (var first = 0u; first < end; first += KEYS) {
        // The values are under way during the products with the keys, and the next keys during the softmax.
#repeat s #{LOADS}
        let v_#{s} = v[(min(first + key_#{s}, end - 1u) * kv_heads + kv_head) * PACKS + part_#{s}];
#end
        var score_0 = Sum();
        var score_1 = Sum();
#repeat h #{PAIRS}
#repeat f 2
#repeat n 2
        let key_#{h}_#{f}_#{n} = coopLoad<Right>(&tile[16u * #{n}u * PITCH + 8u * #{h}u + 4u * #{f}u], PITCH);
        score_#{n} = coopMultiplyAdd(q_#{h}_#{f}, key_#{h}_#{f}_#{n}, score_#{n});
#end
#end
#end
#repeat n 2
        let scores_#{n} = score_#{n};
        let scores_at_#{n} = team_strips + 4u * #{n}u;
        coopStoreT(scores_#{n}, &strips[scores_at_#{n}], SCORES);
#end
        workgroupBarrier();
#repeat s #{LOADS}
        stage(v_#{s}, to_#{s});
#end
#repeat s #{LOADS}
        k_#{s} = k[(min(first + KEYS + key_#{s}, end - 1u) * kv_heads + kv_head) * PACKS + part_#{s}];
#end

        // Both lanes of a row find its maximum, and each makes its half of the weights.
#repeat i 4
        var own_#{i} = strips[own_strip + #{i}u];
        var other_#{i} = strips[other_strip + #{i}u];
#end
#ifdef BIASED
        let whole = first + KEYS <= seen_by_all && first >= params.biased;
#else
        let whole = first + KEYS <= seen_by_all;
#endif
        if !whole {
#repeat i 4
            own_#{i} = seen(own_#{i}, first + 16u * side + 4u * #{i}u, visible, kv_head);
            other_#{i} = seen(other_#{i}, first + 16u * (1u - side) + 4u * #{i}u, visible, kv_head);
#end
        }
        let four = max(max(max(own_0, own_1), max(own_2, own_3)), max(max(other_0, other_1), max(other_2, other_3)));
        let most = max(max(four.x, four.y), max(four.z, four.w));
        // Row 0 is in the first step and every query sees it: from then on the reference is a real score.
        let next = select(reference, most, most > reference + 8.0);
        let fade = exp2(reference - next);
        reference = next;
        total *= fade;
        let odd = first / KEYS % 2u;
        if first > 0u && fade < 1.0 { moved[odd] = 1u; }
        if lane == 0u { moved[1u - odd] = 0u; }
#repeat i 4
        let weight_#{i} = exp2(own_#{i} - reference);
        weights[own_weights + #{i}u] = vec4<f16>(weight_#{i});
#end
        total += dot(weight_0 + weight_1 + weight_2 + weight_3, vec4<f32>(1.0));
        workgroupBarrier();

        // All subgroups take this way or none.
        if moved[odd] != 0u {
#repeat h #{PAIRS}
#repeat f 2
            let old_#{h}_#{f} = sum_#{h}_#{f};
            let old_at_#{h}_#{f} = team_strips + 4u * #{f}u;
            coopStoreT(old_#{h}_#{f}, &strips[old_at_#{h}_#{f}], SCORES);
#end
            workgroupBarrier();
            for (var i = 0u; i < 4u; i++) { strips[own_strip + i] *= fade; }
            workgroupBarrier();
#repeat f 2
            sum_#{h}_#{f} = coopLoadT<Sum>(&strips[old_at_#{h}_#{f}], SCORES);
#end
            workgroupBarrier();
#end
        }

#repeat n 2
        let weights_#{n} = coopLoadT<Left>(&weights[team_weights + 4u * #{n}u], WEIGHTS);
#repeat h #{PAIRS}
#repeat f 2
        let value_#{h}_#{f}_#{n} = coopLoadT<Right>(&tile[16u * #{n}u * PITCH + 8u * #{h}u + 4u * #{f}u], PITCH);
        sum_#{h}_#{f} = coopMultiplyAdd(weights_#{n}, value_#{h}_#{f}_#{n}, sum_#{h}_#{f});
#end
#end
#end
        workgroupBarrier();
#repeat s #{LOADS}
        stage(k_#{s}, to_#{s});
#end
        workgroupBarrier();
    }

    // Each lane of a row has the weights of its half.
    strips[own_strip] = vec4<f32>(total);
    workgroupBarrier();
    total += strips[other_strip].x;
    workgroupBarrier();
#repeat h #{PAIRS}
#repeat f 2
    let end_#{h}_#{f} = sum_#{h}_#{f};
    let end_at_#{h}_#{f} = team_strips + 4u * #{f}u;
    coopStoreT(end_#{h}_#{f}, &strips[end_at_#{h}_#{f}], SCORES);
#end
    workgroupBarrier();
    if own < rows {
        for (var i = 0u; i < 4u; i++) {
            out[at_row * QUADS + 8u * #{h}u + 4u * side + i] = stored(strips[own_strip + i] / total);
        }
    }
    workgroupBarrier();
#end
    if side == 0u && own < rows { lse[at_row] = (reference + log2(total)) / LOG2_E; }
}
