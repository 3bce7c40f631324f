// kv_read: unpacks the live rows of a layer's keys (or, in a second dispatch, values) in table order.
// words, scales: the layer's rows of one kind · book: its tables, see kv_row.rs · out [count, G * hd]
// grid: one team per (row, KV head). 4-bit rows are transformed back.

#import kv_row

struct Params { count: u32, kv_heads: u32, capacity: u32, sets: u32 }

const BITS: u32 = #{BITS}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> row_scales: array<u32>;
@group(0) @binding(3) var<storage, read> book: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = team_index(group.x, lane);
    let head = group.y;
    let member = team_member(lane);
    if r >= params.count { return; }

    let table = select(0u, head, params.sets > 1u) * 4u * params.capacity;
    let at = min(book[table + r], params.capacity - 1u) * params.kv_heads + head;
    for (var i = member; i < words_per_row(BITS); i += TEAM) {
        var scale = 0u;
        if BITS != 16u { scale = row_scales[at * scales_per_row(BITS) + i / BITS]; }
        unpack_word(BITS, i, words[at * words_per_row(BITS) + i], scale);
    }
    sync();
    if BITS == 4u { hadamard(member); }
    let to = (r * params.kv_heads + head) * HEAD_DIM;
    for (var i = member; i < HEAD_DIM; i += TEAM) { out[to + i] = row[i]; }
}
