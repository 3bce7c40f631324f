// rope_write: one decoded token: rotates its query and key, packs its key and value into their slots.
// qkv [(H + 2G) * hd] · frequencies [PAIRS] · q [H * hd], Hadamard-transformed when K has 4 bits
// k_words, k_scales, v_words, v_scales: the layer's rows · book: its tables, see kv_row.rs
// grid: one team per head row, queries first, then keys, then values.

#import kv_row
#import rope

struct Params {
    position: u32,
    entry: u32,
    query_heads: u32,
    kv_heads: u32,
    capacity: u32,
    sets: u32,
    scale: f32,
}

const K_BITS: u32 = #{K_BITS}u;
const V_BITS: u32 = #{V_BITS}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> k_words: array<u32>;
@group(0) @binding(5) var<storage, read_write> k_scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> v_words: array<u32>;
@group(0) @binding(7) var<storage, read_write> v_scales: array<u32>;
@group(0) @binding(8) var<storage, read_write> book: array<u32>;

// Empties the entry's slot in the book and returns it.
fn claim(book_set: u32, member: u32) -> u32 {
    let table = book_set * 4u * params.capacity;
    let slot = min(book[table + params.entry], params.capacity - 1u);
    if member == 0u {
        book[table + params.capacity + slot] = params.position;
        book[table + 2u * params.capacity + slot] = 0u;
        book[table + 3u * params.capacity + slot] = 0u;
    }
    return slot;
}

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = team_index(group.x, lane);
    let member = team_member(lane);
    let keys_end = params.query_heads + params.kv_heads;
    if head >= keys_end + params.kv_heads { return; }

    for (var pair = member; pair < HEAD_DIM / 2u; pair += TEAM) {
        let dims = pair_dims(pair);
        var values = vec2(qkv[head * HEAD_DIM + dims.x], qkv[head * HEAD_DIM + dims.y]);
        if head < keys_end && pair < PAIRS {
            values = rotate(values, turn(f32(params.position) * frequencies[pair]) * params.scale);
        }
        row[dims.x] = values.x;
        row[dims.y] = values.y;
    }
    sync();
    // One call for all three kinds: unrolled, the transform is most of this kernel.
    if select(V_BITS, K_BITS, head < keys_end) == 4u { hadamard(member); }

    if head < params.query_heads {
        for (var i = member; i < HEAD_DIM; i += TEAM) { q[head * HEAD_DIM + i] = row[i]; }
    } else if head < keys_end {
        let kv_head = head - params.query_heads;
        let slot = claim(select(0u, kv_head, params.sets > 1u), member);
        let at = slot * params.kv_heads + kv_head;
        find_scales(K_BITS, member);
        for (var i = member; i < words_per_row(K_BITS); i += TEAM) {
            k_words[at * words_per_row(K_BITS) + i] = pack_word(K_BITS, i);
        }
        for (var i = member; i < scales_per_row(K_BITS); i += TEAM) {
            k_scales[at * scales_per_row(K_BITS) + i] = scales[i];
        }
    } else {
        let kv_head = head - keys_end;
        let table = select(0u, kv_head, params.sets > 1u) * 4u * params.capacity;
        let at = min(book[table + params.entry], params.capacity - 1u) * params.kv_heads + kv_head;
        find_scales(V_BITS, member);
        for (var i = member; i < words_per_row(V_BITS); i += TEAM) {
            v_words[at * words_per_row(V_BITS) + i] = pack_word(V_BITS, i);
        }
        for (var i = member; i < scales_per_row(V_BITS); i += TEAM) {
            v_scales[at * scales_per_row(V_BITS) + i] = scales[i];
        }
    }
}
