// attention_decode_lanes: one query token of each sequence against its live rows, for software adapters.
// q [H][hd] · k_words, v_words, steps: packed rows · book: region 0 of each set is its slots
// partials: [H][parts][hd + 2], see attention_merge; scores [H][capacity] with STORE_LOGITS; ends [H][2]
// A job says where in each of them its sequence's part begins, in elements. With BIASED, region 3 is added to a row's
// scaled score.
// grid (workgroups, H / TILE, sequences): one lane per (stripe, TILE query heads of one KV head), so that a row is unpacked
// once for all of them. Stripe s of S takes rows s, s + S, ... four at a time, one softmax update for the four.
// A stripe is a part; with SUBGROUPS the eight stripes of a workgroup are one. With WHOLE that is the head's only one,
// and what comes out is out [H * hd], transformed back with V_ROTATED, and the head's ends.

#import attention_job
#import kv_block
#import eight
#ifdef SUBGROUPS
#import row_of_eight
#endif

const HEAD_DIM: u32 = #{HEAD_DIM}u;
const TILE: u32 = #{TILE}u;
const QUADS: u32 = HEAD_DIM / 4u;
const EMPTY: f32 = -3.4e38;

@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> book: array<u32>;
@group(0) @binding(6) var<storage, read_write> partials: array<f32>;
#ifdef WHOLE
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;
#endif

#ifdef SUBGROUPS
// A part of a head, or with WHOLE the head's output.
fn leave(job: Job, part: u32, head: u32, sums: Row, top: f32, total: f32, lane: u32) {
    var row = sums;
#ifdef WHOLE
#ifdef V_ROTATED
    row = hadamard_of_eight(row, lane);
#endif
    for (var b = 0u; b < BLOCKS_OF_ROW; b++) { out[job.out_from / 4u + head * QUADS + 8u * b + lane] = row[b] / total; }
    let end = job.ends_from + 2u * head;
#else
    let to = job.out_from + (head * job.parts + part) * (HEAD_DIM + 2u);
    for (var b = 0u; b < BLOCKS_OF_ROW; b++) {
        for (var i = 0u; i < 4u; i++) { partials[to + 32u * b + 4u * lane + i] = row[b][i]; }
    }
    let end = to + HEAD_DIM;
#endif
    if lane == 0u {
        partials[end] = top;
        partials[end + 1u] = total;
    }
}
#endif

// Where the query of the lane's first head begins, in quads.
var<private> first_quad: u32;

fn input(i: u32) -> vec4<f32> { return q[first_quad + i]; }

// A block of the query of one of the lane's heads.
fn query(head: u32, block: u32, lane: u32) -> Block {
    let first = head * QUADS + 2u * BLOCK * block;
#ifdef WHOLE_BLOCKS
    let quads = eight(first, 8u, 0u, lane);
    return Block(mat2x4(quads[0], quads[1]), mat2x4(quads[2], quads[3]),
                 mat2x4(quads[4], quads[5]), mat2x4(quads[6], quads[7]));
#else
    return Block(mat2x4(input(first), input(first + 1u)));
#endif
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, who: Lane) {
    let lane = loader(who);
    let job = jobs[group.z];
#ifdef SUBGROUPS
    if group.x >= job.splits { return; }
    let stripes = 8u * job.splits;
#else
    let stripes = job.splits;
#endif
    let stripe = group.x * 8u + who.index;
    let head = group.y * TILE;
    first_quad = job.q_from + head * QUADS;
    let kv_head = head / job.group;
    let table = job.book_from + select(0u, kv_head, job.sets > 1u) * 4u * job.capacity;

    var acc: array<array<Block, BLOCKS>, TILE>;
    var best: array<f32, TILE>;
    var total: array<f32, TILE>;
    // Codes count from the grid's first value: what its middle adds to a whole sum is taken off once.
    var q_middle: array<f32, TILE>;
    var v_middle: array<f32, TILE>;
    for (var h = 0u; h < TILE; h++) {
        best[h] = EMPTY;
        var sum = vec4(0.0);
        for (var i = 0u; i < QUADS; i++) { sum += input(h * QUADS + i); }
        q_middle[h] = K_MIDDLE * dot(sum, vec4(1.0));
    }

    // As many turns for every lane, so that all hand on their loads: the last ones may find no row.
    let turns = (job.count + 4u * stripes - 1u) / (4u * stripes);
    for (var turn = 0u; turn < turns; turn++) {
        let rows = vec4(stripe + 4u * turn * stripes) + vec4(0u, 1u, 2u, 3u) * stripes;
        let live = rows < vec4(select(0u, job.count, stripe < stripes));
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
        for (var block = 0u; block < BLOCKS; block++) {
            var own: array<Block, TILE>;
            for (var h = 0u; h < TILE; h++) { own[h] = query(h, block, lane); }
            let a = k_block(job.k_from, at.x, block);
            let b = k_block(job.k_from, at.y, block);
            let c = k_block(job.k_from, at.z, block);
            let d = k_block(job.k_from, at.w, block);
            for (var i = 0u; i < BLOCK; i++) {
                for (var h = 0u; h < TILE; h++) {
                    let low = own[h][i][0];
                    let high = own[h][i][1];
                    score[h] += vec4(dot(low, a[i][0]), dot(low, b[i][0]), dot(low, c[i][0]), dot(low, d[i][0]))
                        + vec4(dot(high, a[i][1]), dot(high, b[i][1]), dot(high, c[i][1]), dot(high, d[i][1]));
                }
            }
        }

        var weight: array<vec4<f32>, TILE>;
        var fade: array<f32, TILE>;
        for (var h = 0u; h < TILE; h++) {
            let scaled = select(vec4(EMPTY), (score[h] - q_middle[h]) * steps[0] * job.scale + bias, live);
#ifdef STORE_LOGITS
            let to = job.logits_from + (head + h) * logits_stride(job);
            for (var i = 0u; i < 4u; i++) {
                if live[i] { partials[to + rows[i]] = scaled[i]; }
            }
#endif
            let top = max(best[h], max(max(scaled.x, scaled.y), max(scaled.z, scaled.w)));
            fade[h] = exp(best[h] - top);
            let weights = select(vec4(0.0), exp(scaled - top), live);
            total[h] = total[h] * fade[h] + dot(weights, vec4(1.0));
            weight[h] = weights * steps[1];
            v_middle[h] = v_middle[h] * fade[h] + V_MIDDLE * dot(weight[h], vec4(1.0));
            best[h] = top;
        }

        for (var block = 0u; block < BLOCKS; block++) {
            let a = v_block(job.v_from, at.x, block);
            let b = v_block(job.v_from, at.y, block);
            let c = v_block(job.v_from, at.z, block);
            let d = v_block(job.v_from, at.w, block);
            for (var i = 0u; i < BLOCK; i++) {
                for (var h = 0u; h < TILE; h++) {
                    let w = weight[h];
                    acc[h][block][i] = acc[h][block][i] * fade[h] + a[i] * w.x + b[i] * w.y + c[i] * w.z + d[i] * w.w;
                }
            }
        }
    }

#ifdef SUBGROUPS
    for (var h = 0u; h < TILE; h++) {
        let top = subgroupMax(best[h]);
        let fade = exp(best[h] - top);
        let sum = subgroupAdd(total[h] * fade);
        var row: Row;
        for (var block = 0u; block < BLOCKS; block++) {
            for (var i = 0u; i < BLOCK; i++) {
                let low = subgroupAdd((acc[h][block][i][0] - v_middle[h]) * fade);
                let high = subgroupAdd((acc[h][block][i][1] - v_middle[h]) * fade);
                row[block] = select(row[block], select(low, high, lane % 2u == 1u), lane / 2u == i);
            }
        }
        leave(job, group.x, head + h, row, top, sum, lane);
    }
#else
    if stripe >= stripes { return; }
    for (var h = 0u; h < TILE; h++) {
        let to = job.out_from + ((head + h) * job.parts + stripe) * (HEAD_DIM + 2u);
        for (var block = 0u; block < BLOCKS; block++) {
            for (var i = 0u; i < BLOCK; i++) {
                let at = to + 8u * (BLOCK * block + i);
                for (var j = 0u; j < 8u; j++) { partials[at + j] = acc[h][block][i][j / 4u][j % 4u] - v_middle[h]; }
            }
        }
        partials[to + HEAD_DIM] = best[h];
        partials[to + HEAD_DIM + 1u] = total[h];
    }
#endif
}
