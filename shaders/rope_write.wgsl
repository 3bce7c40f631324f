// rope_write: one decoded token of each sequence: rotates its query and key, packs its key and value into their slots.
// qkv [(H + 2G) * hd] · frequencies [PAIRS] · q [H * hd], Hadamard-transformed with K_ROTATED
// k_words, v_words, steps: the layer's rows · centre [G * hd], taken from the key with CENTRED
// book: its tables, see kv_row.rs
// grid: one team per query head, then one per KV head, which packs its key and then its value, or with APART a team for
// each key and then one for each value; a layer of them for each sequence, whose job says where in each tensor its values
// begin.

#import jobs
#import kv_row
#import rope

struct Job {
    @align(16) position: u32,
    entry: u32,
    query_heads: u32,
    kv_heads: u32,
    capacity: u32,
    sets: u32,
    scale: f32,
    qkv_from: u32,
    q_from: u32,
    k_from: u32,
    v_from: u32,
    steps_from: u32,
    book_from: u32,
    centre_from: u32,
}

const K_BITS: u32 = #{K_BITS}u;
const V_BITS: u32 = #{V_BITS}u;

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> frequencies: array<f32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> k_words: array<u32>;
@group(0) @binding(5) var<storage, read_write> v_words: array<u32>;
@group(0) @binding(6) var<storage, read_write> steps: array<u32>;
@group(0) @binding(7) var<storage, read> centre: array<f32>;
@group(0) @binding(8) var<storage, read_write> book: array<u32>;

#ifdef K_ROTATED
const K_ROTATED = true;
#else
const K_ROTATED = false;
#endif
#ifdef V_ROTATED
const V_ROTATED = true;
#else
const V_ROTATED = false;
#endif

// Empties the entry's slot in the book and returns it.
fn claim(job: Job, book_set: u32, member: u32) -> u32 {
    let table = job.book_from + book_set * 4u * job.capacity;
    let slot = min(book[table + job.entry], job.capacity - 1u);
    if member == 0u {
        book[table + job.capacity + slot] = job.position;
        book[table + 2u * job.capacity + slot] = 0u;
        book[table + 3u * job.capacity + slot] = 0u;
    }
    return slot;
}

// Loads one of the token's rows, and turns it unless it is a value.
fn load(job: Job, source: u32, turned: bool, member: u32) {
    for (var pair = member; pair < HEAD_DIM / 2u; pair += TEAM) {
        let dims = pair_dims(pair);
        let begin = job.qkv_from + source * HEAD_DIM;
        var values = vec2(qkv[begin + dims.x], qkv[begin + dims.y]);
        if turned && pair < PAIRS {
            values = rotate(values, turn(f32(job.position) * frequencies[pair]) * job.scale);
        }
        row[dims.x] = values.x;
        row[dims.y] = values.y;
    }
    sync();
}

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let job = jobs[group.z];
    let head = team_index(group.x, lane);
    let member = team_member(lane);
#ifdef APART
    let teams = job.query_heads + 2u * job.kv_heads;
#else
    let teams = job.query_heads + job.kv_heads;
#endif
    if head >= teams { return; }

    let is_query = head < job.query_heads;
    let kv_head = (head - min(head, job.query_heads)) % max(job.kv_heads, 1u);
    let first_kind = select(0u, 1u, head >= job.query_heads + job.kv_heads);
#ifdef APART
    let kinds = 1u;
#else
    let kinds = select(2u, 1u, is_query);
#endif
    var at = 0u;
    // Both of a key and its value say the same of the slot.
    if !is_query { at = claim(job, select(0u, kv_head, job.sets > 1u), member) * job.kv_heads + kv_head; }
    var k_step = 0.0;
    // One transform for all kinds of rows: unrolled, it is most of this kernel.
    for (var kind = first_kind; kind < first_kind + kinds; kind++) {
        let is_value = kind == 1u;
        load(job, select(job.query_heads + kind * job.kv_heads + kv_head, head, is_query), !is_value, member);
#ifdef CENTRED
        if !is_query && !is_value {
            for (var i = member; i < HEAD_DIM; i += TEAM) { row[i] -= centre[job.centre_from + kv_head * HEAD_DIM + i]; }
            sync();
        }
#endif
        if select(K_ROTATED, V_ROTATED, is_value) { hadamard(member); }
        if is_query {
            for (var i = member; i < HEAD_DIM; i += TEAM) { q[job.q_from + head * HEAD_DIM + i] = row[i]; }
            continue;
        }
        let bits = select(K_BITS, V_BITS, is_value);
        var step = vec2(1.0);
        if bits != 16u { step = find_steps(bits); }
        for (var i = member; i < words_per_row(bits); i += TEAM) {
            let word = pack_word(bits, i, step.x);
            if is_value { v_words[job.v_from + at * words_per_row(V_BITS) + i] = word; }
            else { k_words[job.k_from + at * words_per_row(K_BITS) + i] = word; }
        }
#ifdef STEPS
        if is_value && member == 0u { steps[job.steps_from + at] = pack2x16float(vec2(k_step, step.y)); }
#endif
        k_step = step.y;
        sync();
    }
}
