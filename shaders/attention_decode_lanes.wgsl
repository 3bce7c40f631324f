// attention_decode_lanes: one query token of each sequence against its live rows, for software adapters.
// q [H][hd] · k_words, v_words, steps: packed rows · book: region 0 of each set is its slots
// partials [H][parts][hd + 2], see attention_merge · logits [H][capacity] with STORE_LOGITS
// A job says where in each of them its sequence's part begins, in elements. With BIASED, region 3 is added to a row's
// scaled score.
// grid (S / LANES, H / TILE, sequences): one lane per (split, TILE query heads of one KV head), so that a row is unpacked
// once for all of them. Split s takes rows s, s + S, ... four at a time, one softmax update for the four.

#import attention_job
#import kv_eight

const HEAD_DIM: u32 = #{HEAD_DIM}u;
const TILE: u32 = #{TILE}u;
const EMPTY: f32 = -3.4e38;

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> book: array<u32>;
@group(0) @binding(6) var<storage, read_write> partials: array<f32>;
@group(0) @binding(7) var<storage, read_write> logits: array<f32>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let job = jobs[id.z];
    let split = id.x;
    let head = id.y * TILE;
    if split >= job.splits { return; }
    let kv_head = head / job.group;
    let table = job.book_from + select(0u, kv_head, job.sets > 1u) * 4u * job.capacity;

    var acc: array<array<vec4<f32>, EIGHTS * 2u>, TILE>;
    var best: array<f32, TILE>;
    var total: array<f32, TILE>;
    // Codes count from the grid's first value: what its middle adds to a whole sum is taken off once.
    var q_middle: array<f32, TILE>;
    var v_middle: array<f32, TILE>;
    for (var h = 0u; h < TILE; h++) {
        best[h] = EMPTY;
        var sum = vec4(0.0);
        for (var i = 0u; i < EIGHTS * 2u; i++) { sum += q[job.q_from + (head + h) * EIGHTS * 2u + i]; }
        q_middle[h] = K_MIDDLE * dot(sum, vec4(1.0));
    }

    for (var first = split; first < job.count; first += 4u * job.splits) {
        let rows = vec4(first) + vec4(0u, 1u, 2u, 3u) * job.splits;
        let live = rows < vec4(job.count);
        let entry = vec4(table) + min(rows, vec4(job.count - 1u));
        let listed = vec4(book[entry.x], book[entry.y], book[entry.z], book[entry.w]);
        let slots = min(listed, vec4(job.capacity - 1u));
        let at = slots * job.kv_heads + kv_head;
#ifdef BIASED
        let by_slot = slots + table + 3u * job.capacity;
        let bias = bitcast<vec4<f32>>(vec4(book[by_slot.x], book[by_slot.y], book[by_slot.z], book[by_slot.w]));
#else
        let bias = vec4(0.0);
#endif
        let own = vec4(job.steps_from) + at;
        let steps = transpose(mat4x2(row_steps(own.x), row_steps(own.y), row_steps(own.z), row_steps(own.w)));

        // Zeros, and said so: Chromium leaves a variable of a loop as its last turn left it.
        var score = array<vec4<f32>, TILE>();
        for (var e = 0u; e < EIGHTS; e++) {
            let a = k_eight(job.k_from, at.x, e);
            let b = k_eight(job.k_from, at.y, e);
            let c = k_eight(job.k_from, at.z, e);
            let d = k_eight(job.k_from, at.w, e);
            for (var h = 0u; h < TILE; h++) {
                let low = q[job.q_from + ((head + h) * EIGHTS + e) * 2u];
                let high = q[job.q_from + ((head + h) * EIGHTS + e) * 2u + 1u];
                score[h] += vec4(dot(low, a[0]), dot(low, b[0]), dot(low, c[0]), dot(low, d[0]))
                    + vec4(dot(high, a[1]), dot(high, b[1]), dot(high, c[1]), dot(high, d[1]));
            }
        }

        var weight: array<vec4<f32>, TILE>;
        var fade: array<f32, TILE>;
        for (var h = 0u; h < TILE; h++) {
            let scaled = select(vec4(EMPTY), (score[h] - q_middle[h]) * steps[0] * job.scale + bias, live);
#ifdef STORE_LOGITS
            let to = job.logits_from + (head + h) * job.capacity;
            for (var i = 0u; i < 4u; i++) {
                if live[i] { logits[to + rows[i]] = scaled[i]; }
            }
#endif
            let top = max(best[h], max(max(scaled.x, scaled.y), max(scaled.z, scaled.w)));
            fade[h] = exp(best[h] - top);
            let weights = exp(scaled - top);
            total[h] = total[h] * fade[h] + dot(weights, vec4(1.0));
            weight[h] = weights * steps[1];
            v_middle[h] = v_middle[h] * fade[h] + V_MIDDLE * dot(weight[h], vec4(1.0));
            best[h] = top;
        }

        for (var e = 0u; e < EIGHTS; e++) {
            let a = v_eight(job.v_from, at.x, e);
            let b = v_eight(job.v_from, at.y, e);
            let c = v_eight(job.v_from, at.z, e);
            let d = v_eight(job.v_from, at.w, e);
            for (var h = 0u; h < TILE; h++) {
                let w = weight[h];
                acc[h][2u * e] = acc[h][2u * e] * fade[h] + a[0] * w.x + b[0] * w.y + c[0] * w.z + d[0] * w.w;
                acc[h][2u * e + 1u] = acc[h][2u * e + 1u] * fade[h] + a[1] * w.x + b[1] * w.y + c[1] * w.z + d[1] * w.w;
            }
        }
    }

    for (var h = 0u; h < TILE; h++) {
        let to = job.partials_from + ((head + h) * job.parts + job.first_part + split) * (HEAD_DIM + 2u);
        for (var i = 0u; i < EIGHTS * 2u; i++) {
            let values = acc[h][i] - v_middle[h];
            partials[to + 4u * i] = values.x;
            partials[to + 4u * i + 1u] = values.y;
            partials[to + 4u * i + 2u] = values.z;
            partials[to + 4u * i + 3u] = values.w;
        }
        partials[to + HEAD_DIM] = best[h];
        partials[to + HEAD_DIM + 1u] = total[h];
    }
}
