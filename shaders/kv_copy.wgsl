// kv_copy: rows of one cache into slots of another one of the same format, as they are packed.
// from_k, from_v [slot][KV head][words of a row] · from_steps [slot][KV head] · from_book: its tables, see kv_row.rs
// to_k, to_v, to_steps, to_book: the same of the other cache
// grid: rows in lines of 32768, then KV heads; 32 lanes share a row.

struct Params {
    count: u32,
    first: u32,
    at: u32,
    from_capacity: u32,
    to_capacity: u32,
    sets: u32,
    kv_heads: u32,
    k_words: u32,
    v_words: u32,
    steps: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> from_k: array<u32>;
@group(0) @binding(2) var<storage, read> from_v: array<u32>;
@group(0) @binding(3) var<storage, read> from_steps: array<u32>;
@group(0) @binding(4) var<storage, read> from_book: array<u32>;
@group(0) @binding(5) var<storage, read_write> to_k: array<u32>;
@group(0) @binding(6) var<storage, read_write> to_v: array<u32>;
@group(0) @binding(7) var<storage, read_write> to_steps: array<u32>;
@group(0) @binding(8) var<storage, read_write> to_book: array<u32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = group.y * 32768u + group.x;
    if r >= params.count { return; }
    let head = group.z;
    let table = select(0u, head, params.sets > 1u);
    let from_table = table * 4u * params.from_capacity;
    let to_table = table * 4u * params.to_capacity;
    let from_slot = min(from_book[from_table + params.first + r], params.from_capacity - 1u);
    let to_slot = min(to_book[to_table + params.at + r], params.to_capacity - 1u);
    let from_row = from_slot * params.kv_heads + head;
    let to_row = to_slot * params.kv_heads + head;
    for (var i = lane; i < params.k_words; i += 32u) {
        to_k[to_row * params.k_words + i] = from_k[from_row * params.k_words + i];
    }
    for (var i = lane; i < params.v_words; i += 32u) {
        to_v[to_row * params.v_words + i] = from_v[from_row * params.v_words + i];
    }
    if lane == 0u && params.steps > 0u { to_steps[to_row] = from_steps[from_row]; }
    // Position and both sums; heads that keep the same rows have one table, which the first of them serves.
    if (lane == 1u || lane == 2u || lane == 3u) && (head == 0u || params.sets > 1u) {
        to_book[to_table + lane * params.to_capacity + to_slot] =
            from_book[from_table + lane * params.from_capacity + from_slot];
    }
}
