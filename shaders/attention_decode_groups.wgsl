// attention_decode_groups: one query token of each sequence against its live rows, for real GPUs.
// q [H][hd] · k_words, v_words, steps: packed rows · book: region 0 of each set is its slots
// partials: [H][parts][hd + 2], see attention_merge; scores [H][capacity] with STORE_LOGITS
// A job says where in each of them its sequence's part begins, in elements. With BIASED, region 3 is added to a row's
// scaled score.
// grid (S, H, sequences): one workgroup per (split, head); it takes every S-th tile of LANES rows. Neighbouring lanes read
// neighbouring eights of a row; a lane keeps one eight of the output for every PARTS-th row of the tile.

#import attention_job
#import kv_eight

const HEAD_DIM: u32 = #{HEAD_DIM}u;
const LANES: u32 = #{LANES}u;
const PARTS: u32 = LANES / EIGHTS;
const EMPTY: f32 = -3.4e38;

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> book: array<u32>;
@group(0) @binding(6) var<storage, read_write> partials: array<f32>;

var<workgroup> at: array<u32, LANES>;
// Per row and eight, that eight's share of the score; at the end, per part and dimension, the values.
var<workgroup> shares: array<f32, LANES * max(EIGHTS, 8u)>;
var<workgroup> scores: array<f32, LANES>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let job = jobs[group.z];
    let split = group.x;
    if split >= job.splits { return; }
    let head = group.y;
    let kv_head = head / job.group;
    let table = job.book_from + select(0u, kv_head, job.sets > 1u) * 4u * job.capacity;
    let eight = lane % EIGHTS;
    let part = lane / EIGHTS;
    let low = q[job.q_from + (head * EIGHTS + eight) * 2u];
    let high = q[job.q_from + (head * EIGHTS + eight) * 2u + 1u];
    // Codes count from the grid's first value: each eight of the query takes off what its middle adds.
    let q_middle = K_MIDDLE * (dot(low, vec4(1.0)) + dot(high, vec4(1.0)));

    var acc_low = vec4(0.0);
    var acc_high = vec4(0.0);
    var best = EMPTY;
    var total = 0.0;
    for (var first = split * LANES; first < job.count; first += job.splits * LANES) {
        let rows = min(LANES, job.count - first);
        let own = first + min(lane, rows - 1u);
        let slot = min(book[table + own], job.capacity - 1u);
        let own_at = slot * job.kv_heads + kv_head;
        let own_steps = row_steps(job.steps_from + own_at);
        at[lane] = own_at;
        workgroupBarrier();
        if part < PARTS {
            for (var r = part; r < rows; r += PARTS) {
                let k = k_eight(job.k_from, at[r], eight);
                shares[r * EIGHTS + eight] = dot(low, k[0]) + dot(high, k[1]) - q_middle;
            }
        }
        workgroupBarrier();
        var score = EMPTY;
        if lane < rows {
            score = 0.0;
            for (var e = 0u; e < EIGHTS; e++) { score += shares[lane * EIGHTS + e]; }
            score *= own_steps.x * job.scale;
#ifdef BIASED
            score += bitcast<f32>(book[table + 3u * job.capacity + slot]);
#endif
#ifdef STORE_LOGITS
            partials[job.logits_from + head * logits_stride(job) + first + lane] = score;
#endif
        }
        scores[lane] = score;
        workgroupBarrier();
        var top = best;
        for (var r = 0u; r < rows; r++) { top = max(top, scores[r]); }
        let fade = exp(best - top);
        best = top;
        let weight = exp(score - top);
        total = total * fade + weight;
        workgroupBarrier();
        scores[lane] = weight * own_steps.y;
        workgroupBarrier();
        acc_low *= fade;
        acc_high *= fade;
        if part < PARTS {
            for (var r = part; r < rows; r += PARTS) {
                let v = v_eight(job.v_from, at[r], eight);
                acc_low += (v[0] - V_MIDDLE) * scores[r];
                acc_high += (v[1] - V_MIDDLE) * scores[r];
            }
        }
        workgroupBarrier();
    }

    scores[lane] = total;
    if part < PARTS {
        let to = part * HEAD_DIM + eight * 8u;
        for (var i = 0u; i < 4u; i++) {
            shares[to + i] = acc_low[i];
            shares[to + 4u + i] = acc_high[i];
        }
    }
    workgroupBarrier();
    let to = job.out_from + (head * job.parts + split) * (HEAD_DIM + 2u);
    for (var i = lane; i < HEAD_DIM; i += LANES) {
        var sum = 0.0;
        for (var p = 0u; p < PARTS; p++) { sum += shares[p * HEAD_DIM + i]; }
        partials[to + i] = sum;
    }
    if lane == 0u {
        var sum = 0.0;
        for (var i = 0u; i < LANES; i++) { sum += scores[i]; }
        partials[to + HEAD_DIM] = best;
        partials[to + HEAD_DIM + 1u] = sum;
    }
}
