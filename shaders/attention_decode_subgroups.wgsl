// attention_decode_subgroups: one query token of each sequence against its live rows, for GPUs with subgroups.
// q [H][hd] · k_words, v_words, steps: packed rows · book: region 0 of each set is its slots
// partials: [H][parts][hd + 2], see attention_merge; scores [H][capacity] with STORE_LOGITS; ends [H][2] with WHOLE
// With WHOLE, the last workgroup to arrive of those with the same query heads merges the parts:
// out [H * hd], transformed back with V_ROTATED, or with OPERAND column `out_from` of the next product's operand · arrived [H] counts workgroups and is zero before and after
// A job says where in each of them its sequence's part begins, in elements. With BIASED, region 3 is added to a row's
// scaled score.
// grid (S, KV heads * CHUNKS, sequences): a workgroup per split and HEADS query heads of a KV head, so that a row is read
// once for all of them; it takes every S-th tile.
//
// A team of TEAM neighbouring lanes holds one row at a time, EACH eights a lane, and walks ROWS rows a turn, on its own:
// no barrier until all rows are done. The next turn's words, and the slots of the one after, are on their way while
// a turn is worked on. A lane first has its share of ROWS * HEADS scores; number row + ROWS * head. At each step of a
// butterfly two lanes sum two neighbouring scores and each keeps one, so that score `i` ends in lane i % SPAN of the team,
// as its number i / SPAN. There it becomes a weight, and comes back to all lanes by a shuffle.

#import attention_job
#import kv_raw
#ifdef OPERAND
#import operand
#endif

const HEAD_DIM: u32 = #{HEAD_DIM}u;
const LANES: u32 = #{LANES}u;
const TEAM: u32 = #{TEAM}u;
const EACH: u32 = #{EACH}u;
const HEADS: u32 = #{HEADS}u;
const CHUNKS: u32 = #{CHUNKS}u;
const ROWS: u32 = #{ROWS}u;
const SPAN: u32 = 1u << #{HALVINGS}u;
const LEFT: u32 = #{LEFT}u;
const TEAMS: u32 = LANES / TEAM;
const TILE: u32 = TEAMS * ROWS;
// Pairs of output values of a head, and of all heads of the workgroup.
const HALF: u32 = HEAD_DIM / 2u;
const PAIRS: u32 = HEADS * HALF;
// Teams that leave their output in shared memory at once.
const SLOTS: u32 = #{SLOTS}u;
// Parts that are merged at once.
const BLOCK: u32 = 32u;
const EMPTY: f32 = -3.4e38;

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> book: array<u32>;
@group(0) @binding(6) var<storage, read_write> partials: array<vec2<f32>>;
#ifdef WHOLE
#ifdef OPERAND
@group(0) @binding(7) var<storage, read_write> to_x: array<u32>;
#else
@group(0) @binding(7) var<storage, read_write> out: array<vec2<f32>>;
#endif
@group(0) @binding(8) var<storage, read_write> arrived: array<atomic<u32>>;
#endif

// Sums of values, per slot; the first slot ends as those of the workgroup, and with WHOLE as the output.
var<workgroup> joined: array<vec2<f32>, SLOTS * PAIRS>;
// Maximum and sum of weights, per head and team; with WHOLE also per head and part.
var<workgroup> ends: array<vec2<f32>, HEADS * max(TEAMS, BLOCK)>;
// The same of the whole workgroup.
var<workgroup> whole: array<vec2<f32>, HEADS>;
#ifdef WHOLE
var<workgroup> is_last: u32;
#endif

// Where a lane's eight number `i` is in its row, and where it loads from: a row may be narrower than its team.
fn eight_of(member: u32, i: u32) -> u32 { return member + i * TEAM; }
fn load_of(member: u32, i: u32) -> u32 { return min(eight_of(member, i), EIGHTS - 1u); }

// Where row number `row` of the table lies; beyond the last one, that one.
fn slot_of(job: Job, table: u32, row: u32) -> u32 {
    return min(book[table + min(row, job.count - 1u)], job.capacity - 1u);
}

// `sum` and eight products.
fn along(sum: f32, low: vec4<f32>, high: vec4<f32>, codes: mat2x4<f32>) -> f32 {
    let first = fma(low.w, codes[0].w, fma(low.z, codes[0].z, fma(low.y, codes[0].y, fma(low.x, codes[0].x, sum))));
    return fma(high.w, codes[1].w, fma(high.z, codes[1].z, fma(high.y, codes[1].y, fma(high.x, codes[1].x, first))));
}

@compute @workgroup_size(#{LANES})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) in_subgroup: u32,
) {
    let job = jobs[group.z];
    let split = group.x;
    if split >= job.splits { return; }
    let kv_head = group.y / CHUNKS;
    let chunk = group.y % CHUNKS;
    // The last chunk may be short: its last heads then are one, of which nothing is written.
    let heads = min(HEADS, job.group - chunk * HEADS);
    let head = kv_head * job.group + chunk * HEADS;
    let table = job.book_from + select(0u, kv_head, job.sets > 1u) * 4u * job.capacity;
    let member = lane % TEAM;
    let team = lane / TEAM;
    let base = in_subgroup - in_subgroup % TEAM;
    let own = member % ROWS;

    var q_low: array<vec4<f32>, HEADS * EACH>;
    var q_high: array<vec4<f32>, HEADS * EACH>;
    var low: array<vec4<f32>, HEADS * EACH>;
    var high: array<vec4<f32>, HEADS * EACH>;
#repeat h #{HEADS}
#repeat i #{EACH}
    {
        let at = job.q_from + ((head + min(#{h}u, heads - 1u)) * EIGHTS + load_of(member, #{i}u)) * 2u;
        let scale = select(0.0, job.scale, eight_of(member, #{i}u) < EIGHTS);
        q_low[#{h}u * EACH + #{i}u] = q[at] * (scale / K_LOW);
        q_high[#{h}u * EACH + #{i}u] = q[at + 1u] * (scale / K_HIGH);
        low[#{h}u * EACH + #{i}u] = vec4(0.0);
        high[#{h}u * EACH + #{i}u] = vec4(0.0);
    }
#end
#end
    // Of this lane's scores: maxima of their heads, and sums of its own row's weights.
    var best: array<f32, LEFT>;
    var total: array<f32, LEFT>;
#repeat j #{LEFT}
    best[#{j}] = EMPTY;
    total[#{j}] = 0.0;
#end

    var k: array<KRaw, ROWS * EACH>;
    var v: array<VRaw, ROWS * EACH>;
    let stride = job.splits * TILE;
    let start = split * TILE + team * ROWS + own;
    var slot = slot_of(job, table, start);
    var own_steps = row_steps(job.steps_from + slot * job.kv_heads + kv_head);
#ifdef BIASED
    var bias = bitcast<f32>(book[table + 3u * job.capacity + slot]);
#endif
#repeat r #{ROWS}
    {
        let at = subgroupShuffle(slot, base + #{r}u) * job.kv_heads + kv_head;
#repeat i #{EACH}
        k[#{r}u * EACH + #{i}u] = k_raw(job.k_from, at, load_of(member, #{i}u));
        v[#{r}u * EACH + #{i}u] = v_raw(job.v_from, at, load_of(member, #{i}u));
#end
    }
#end
    slot = slot_of(job, table, start + stride);

    for (var first = split * TILE; first < job.count; first += stride) {
        var next_k: array<KRaw, ROWS * EACH>;
        var next_v: array<VRaw, ROWS * EACH>;
#repeat r #{ROWS}
        {
            let at = subgroupShuffle(slot, base + #{r}u) * job.kv_heads + kv_head;
#repeat i #{EACH}
            next_k[#{r}u * EACH + #{i}u] = k_raw(job.k_from, at, load_of(member, #{i}u));
            next_v[#{r}u * EACH + #{i}u] = v_raw(job.v_from, at, load_of(member, #{i}u));
#end
        }
#end
        let next_steps = row_steps(job.steps_from + slot * job.kv_heads + kv_head);
#ifdef BIASED
        let next_bias = bitcast<f32>(book[table + 3u * job.capacity + slot]);
#endif
        let row = first + team * ROWS + own;
        slot = slot_of(job, table, row + 2u * stride);

        var scores: array<f32, ROWS * HEADS>;
#repeat r #{ROWS}
#repeat h #{HEADS}
        scores[#{r}u + ROWS * #{h}u] = 0.0;
#end
#repeat i #{EACH}
        {
            let codes = k_codes(k[#{r}u * EACH + #{i}u], load_of(member, #{i}u));
#repeat h #{HEADS}
            scores[#{r}u + ROWS * #{h}u] = along(scores[#{r}u + ROWS * #{h}u], q_low[#{h}u * EACH + #{i}u], q_high[#{h}u * EACH + #{i}u], codes);
#end
        }
#end
#end
#repeat s #{HALVINGS}
        {
            let upper = (member & (1u << #{s}u)) != 0u;
#repeat i #{LEFT_#{s}}
            {
                let a = scores[2u * #{i}u];
                let b = scores[2u * #{i}u + 1u];
                scores[#{i}] = select(a, b, upper) + subgroupShuffleXor(select(b, a, upper), 1u << #{s}u);
            }
#end
        }
#end
#repeat s #{SUMS}
#repeat j #{LEFT}
        scores[#{j}] += subgroupShuffleXor(scores[#{j}], SPAN << #{s}u);
#end
#end

        let lives = row < job.count;
        var weights: array<f32, LEFT>;
        var fades: array<f32, LEFT>;
#repeat j #{LEFT}
        {
            var score = scores[#{j}] * own_steps.x;
#ifdef BIASED
            score += bias;
#endif
#ifdef STORE_LOGITS
            let own_head = member % SPAN / ROWS + SPAN / ROWS * #{j}u;
            // Two neighbouring rows' scores at once, by the lane of the first.
            let pair = vec2(score, subgroupShuffleXor(score, 1u));
            if lives && member < SPAN && own % 2u == 0u && own_head < heads {
                partials[(job.logits_from + (head + own_head) * logits_stride(job) + row) / 2u] = pair;
            }
#endif
            var top = select(EMPTY, score, lives);
#repeat s #{ROW_BITS}
            top = max(top, subgroupShuffleXor(top, 1u << #{s}u));
#end
            top = max(top, best[#{j}]);
            let weight = select(0.0, exp(score - top), lives);
            fades[#{j}] = exp(best[#{j}] - top);
            total[#{j}] = total[#{j}] * fades[#{j}] + weight;
            best[#{j}] = top;
            weights[#{j}] = weight * own_steps.y;
        }
#end
#repeat h #{HEADS}
        {
            let fade = subgroupShuffle(fades[#{h}u * ROWS / SPAN], base + #{h}u * ROWS % SPAN);
#repeat i #{EACH}
            low[#{h}u * EACH + #{i}u] *= fade;
            high[#{h}u * EACH + #{i}u] *= fade;
#end
        }
#end
#repeat r #{ROWS}
        {
#repeat i #{EACH}
            let codes_#{i} = v_codes(v[#{r}u * EACH + #{i}u], load_of(member, #{i}u));
#end
#repeat h #{HEADS}
            {
                let weight = vec4(subgroupShuffle(weights[(#{r}u + #{h}u * ROWS) / SPAN], base + (#{r}u + #{h}u * ROWS) % SPAN));
#repeat i #{EACH}
                low[#{h}u * EACH + #{i}u] = fma(weight, codes_#{i}[0], low[#{h}u * EACH + #{i}u]);
                high[#{h}u * EACH + #{i}u] = fma(weight, codes_#{i}[1], high[#{h}u * EACH + #{i}u]);
#end
            }
#end
        }
#end
#repeat r #{ROWS}
#repeat i #{EACH}
        k[#{r}u * EACH + #{i}u] = next_k[#{r}u * EACH + #{i}u];
        v[#{r}u * EACH + #{i}u] = next_v[#{r}u * EACH + #{i}u];
#end
#end
        own_steps = next_steps;
#ifdef BIASED
        bias = next_bias;
#endif
    }

    // The teams of the workgroup become one.
#repeat j #{LEFT}
#repeat s #{ROW_BITS}
    total[#{j}] += subgroupShuffleXor(total[#{j}], 1u << #{s}u);
#end
    if own == 0u && member < SPAN {
        ends[(member / ROWS + SPAN / ROWS * #{j}u) * TEAMS + team] = vec2(best[#{j}], total[#{j}]);
    }
#end
    workgroupBarrier();
    if lane < HEADS {
        var top = EMPTY;
        for (var t = 0u; t < TEAMS; t++) { top = max(top, ends[lane * TEAMS + t].x); }
        var sum = 0.0;
        for (var t = 0u; t < TEAMS; t++) { sum += ends[lane * TEAMS + t].y * exp(ends[lane * TEAMS + t].x - top); }
        whole[lane] = vec2(top, sum);
    }
    workgroupBarrier();
#repeat h #{HEADS}
    {
        let fade = exp(ends[#{h}u * TEAMS + team].x - whole[#{h}].x);
#repeat i #{EACH}
        low[#{h}u * EACH + #{i}u] *= fade / V_LOW;
        high[#{h}u * EACH + #{i}u] *= fade / V_HIGH;
#end
    }
#end
    for (var turn = 0u; turn < TEAMS / SLOTS; turn++) {
        if team / SLOTS == turn {
#repeat h #{HEADS}
#repeat i #{EACH}
            if eight_of(member, #{i}u) < EIGHTS {
                let to = team % SLOTS * PAIRS + #{h}u * HALF + eight_of(member, #{i}u) * 4u;
                leave(to, low[#{h}u * EACH + #{i}u], turn > 0u);
                leave(to + 2u, high[#{h}u * EACH + #{i}u], turn > 0u);
            }
#end
#end
        }
        workgroupBarrier();
    }
    for (var i = lane; i < PAIRS; i += LANES) {
        var sum = joined[i];
        for (var s = 1u; s < SLOTS; s++) { sum += joined[s * PAIRS + i]; }
        joined[i] = sum;
    }

#ifdef WHOLE
    if job.parts == 1u {
        for (var i = lane; i < PAIRS; i += LANES) { joined[i] /= whole[i / HALF].y; }
        if lane < heads { partials[job.ends_from / 2u + head + lane] = whole[lane]; }
    } else {
        leave_part(job, head, heads, split, lane);
        // The part must be seen by whoever sees that it was counted.
        storageBarrier();
        if lane == 0u { is_last = u32(atomicAdd(&arrived[job.arrived_from + group.y], 1u) == job.parts - 1u); }
        if workgroupUniformLoad(&is_last) == 0u { return; }
        storageBarrier();
        if lane == 0u { atomicStore(&arrived[job.arrived_from + group.y], 0u); }
        merge_parts(job, head, heads, lane);
    }
    workgroupBarrier();
#ifdef V_ROTATED
    hadamard(lane);
#endif
    // The output of all heads of the workgroup is in `joined`.
#ifdef OPERAND
    // Eight lanes take a group of 32 values, a quad each; heads are whole groups.
    for (var i = lane; i < heads * HALF / 2u; i += LANES) {
        let quad = vec4(joined[2u * i], joined[2u * i + 1u]);
        let groups = job.kv_heads * job.group * HEAD_DIM / 32u;
        store_group(job.out_from, groups, head * HEAD_DIM / 32u + i / 8u, i % 8u, quad, 0.0);
    }
#else
    for (var i = lane; i < heads * HALF; i += LANES) { out[job.out_from / 2u + head * HALF + i] = joined[i]; }
#endif
#else
    leave_part(job, head, heads, split, lane);
#endif
}

// Four values of a team's output, to those of others or in the place of what was there.
fn leave(to: u32, values: vec4<f32>, add: bool) {
    joined[to] = select(vec2(0.0), joined[to], add) + values.xy;
    joined[to + 1u] = select(vec2(0.0), joined[to + 1u], add) + values.zw;
}

// Where a part of a head begins, in pairs.
fn part_from(job: Job, head: u32, part: u32) -> u32 {
    return job.partials_from / 2u + (head * job.parts + part) * (HALF + 1u);
}

fn leave_part(job: Job, head: u32, heads: u32, split: u32, lane: u32) {
    for (var i = lane; i < heads * HALF; i += LANES) {
        let to = part_from(job, head + i / HALF, job.first_part + split);
        partials[to + i % HALF] = joined[i];
        if i % HALF == 0u { partials[to + HALF] = whole[i / HALF]; }
    }
}

#ifdef WHOLE
// The output of all parts of all heads, in `joined`.
fn merge_parts(job: Job, head: u32, heads: u32, lane: u32) {
    for (var turn = 0u; turn < PAIRS; turn += LANES) {
        let pair = min(turn + lane, PAIRS - 1u);
        let own = min(pair / HALF, heads - 1u);
        var best = EMPTY;
        var total = 0.0;
        var sum = vec2(0.0);
        for (var first = 0u; first < job.parts; first += BLOCK) {
            workgroupBarrier();
            for (var i = lane; i < HEADS * BLOCK; i += LANES) {
                let part = first + i % BLOCK;
                let begin = part_from(job, head + min(i / BLOCK, heads - 1u), min(part, job.parts - 1u));
                ends[i] = select(vec2(EMPTY, 0.0), partials[begin + HALF], part < job.parts);
            }
            workgroupBarrier();
            let parts = min(BLOCK, job.parts - first);
            var top = best;
            for (var p = 0u; p < parts; p += 8u) {
#repeat i 8
                top = max(top, ends[own * BLOCK + p + #{i}u].x);
#end
            }
            let fade = exp(best - top);
            best = top;
            total *= fade;
            sum *= fade;
            for (var p = 0u; p < parts; p += 8u) {
#repeat i 8
                let end_#{i} = ends[own * BLOCK + p + #{i}u];
                let begin_#{i} = part_from(job, head + own, min(first + p + #{i}u, job.parts - 1u));
                let values_#{i} = partials[begin_#{i} + pair % HALF];
#end
#repeat i 8
                {
                    let weight = exp(end_#{i}.x - top);
                    total = fma(weight, end_#{i}.y, total);
                    sum = fma(vec2(weight), values_#{i}, sum);
                }
#end
            }
        }
        if turn + lane < PAIRS { joined[pair] = sum / total; }
        if turn + lane < heads * HALF && pair % HALF == 0u { partials[job.ends_from / 2u + head + own] = vec2(best, total); }
    }
}
#endif

#ifdef V_ROTATED
// The orthonormal Hadamard transform of every head in `joined`, as in `kv_row`.
fn hadamard(lane: u32) {
    const WIDTH: u32 = HEAD_DIM & (~HEAD_DIM + 1u);
    for (var i = lane; i < PAIRS; i += LANES) {
        let pair = joined[i] * inverseSqrt(f32(WIDTH));
        joined[i] = vec2(pair.x + pair.y, pair.x - pair.y);
    }
    for (var span = 1u; span < WIDTH / 2u; span *= 2u) {
        workgroupBarrier();
        for (var i = lane; i < PAIRS / 2u; i += LANES) {
            let low = i / span * span * 2u + i % span;
            let a = joined[low];
            let b = joined[low + span];
            joined[low] = a + b;
            joined[low + span] = a - b;
        }
    }
    workgroupBarrier();
}
#endif
