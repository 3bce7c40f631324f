// kv_write: packs chosen keys (or, in a second dispatch with VALUES, values) into the slots of a layer's cache.
// source [.., G * hd] · positions [..] by source row · index [sets][stride], else row r is its own source
// bias [sets][bias_stride] by source row, with BIASED
// words, steps: the layer's rows · centre [G * hd], taken from keys with CENTRED · book: its tables, see kv_row.rs
// grid: one team per (row, KV head). Both dispatches write the same book entries; the keys' comes first, and the
// values' adds its half of a row's steps to what that one left.

#import kv_row

struct Params {
    count: u32,
    first: u32,
    source_first: u32,
    skip: u32,
    kv_heads: u32,
    capacity: u32,
    sets: u32,
    stride: u32,
    bias_stride: u32,
}

const BITS: u32 = #{BITS}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read_write> words: array<u32>;
@group(0) @binding(4) var<storage, read_write> steps: array<u32>;
@group(0) @binding(5) var<storage, read> centre: array<f32>;
@group(0) @binding(6) var<storage, read_write> book: array<u32>;
#ifdef INDEXED
@group(0) @binding(7) var<storage, read> index: array<u32>;

fn source_row(book_set: u32, r: u32) -> u32 { return index[book_set * params.stride + r]; }
#else
fn source_row(book_set: u32, r: u32) -> u32 { return params.skip + r; }
#endif
#ifdef BIASED
@group(0) @binding(8) var<storage, read> bias: array<f32>;
#endif

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = team_index(group.x, lane);
    let head = group.y;
    let member = team_member(lane);
    if r >= params.count { return; }

    let book_set = select(0u, head, params.sets > 1u);
    let table = book_set * 4u * params.capacity;
    let slot = min(book[table + params.first + r], params.capacity - 1u);
    let from_row = min(source_row(book_set, r), arrayLength(&positions) - 1u);
    if member == 0u && (params.sets > 1u || head == 0u) {
        book[table + params.capacity + slot] = positions[from_row];
        book[table + 2u * params.capacity + slot] = 0u;
#ifdef BIASED
        book[table + 3u * params.capacity + slot] = bitcast<u32>(bias[book_set * params.bias_stride + from_row]);
#else
        book[table + 3u * params.capacity + slot] = 0u;
#endif
    }

    let last = arrayLength(&source) / (params.kv_heads * HEAD_DIM) - 1u;
    let start = (min(params.source_first + from_row, last) * params.kv_heads + head) * HEAD_DIM;
    for (var i = member; i < HEAD_DIM; i += TEAM) {
#ifdef CENTRED
        row[i] = source[start + i] - centre[head * HEAD_DIM + i];
#else
        row[i] = source[start + i];
#endif
    }
    sync();
#ifdef ROTATED
    hadamard(member);
#endif
    let at = slot * params.kv_heads + head;
    var step = 1.0;
#ifdef QUANTISED
    let found = find_steps(BITS);
    step = found.x;
    if member == 0u {
#ifdef VALUES
        steps[at] = (steps[at] & 0xFFFFu) | pack2x16float(vec2(0.0, found.y));
#else
        steps[at] = pack2x16float(vec2(found.y, 0.0));
#endif
    }
#endif
    for (var i = member; i < words_per_row(BITS); i += TEAM) {
        words[at * words_per_row(BITS) + i] = pack_word(BITS, i, step);
    }
}
