// thin: drops the lowest rows of a block from tables of live rows, keeping the order of the others; for many sequences.
// before: [ rows before | block            | rows after | free ]
// after:  [ rows before | kept | rows after | dropped   | free ]
// book: its tables, see kv_row.rs · old [sets][count - start] u32, where a table's rows from `start` on are put
// aside while it is rewritten
// grid (sets, 1, sequences); a workgroup of 256 lanes per table. Equal scores go to the row that stands first.
#import jobs
#import radix

struct Job {
    @align(16) sets: u32,
    capacity: u32,
    start: u32,
    block: u32,
    keep: u32,
    count: u32,
    mean: u32,
    slope: f32,
    book_from: u32,
    old_from: u32,
}

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(1) var<storage, read_write> old: array<u32>;
@group(0) @binding(2) var<storage, read_write> book: array<u32>;

const INFINITY_BITS = 0x7f800000u;

var<private> job: Job;
// Where this workgroup's table begins in `book`, and its rows in `old`.
var<private> table: u32;
var<private> aside: u32;

/// The score of a row of the block as a key that orders like it; NaN and negative ones count as 0.
fn key_of(i: u32) -> u32 {
    let slot = min(old[aside + i], job.capacity - 1u);
    let a = bitcast<f32>(book[table + 2u * job.capacity + slot]);
    let b = bitcast<f32>(book[table + 3u * job.capacity + slot]);
    let bits = bitcast<u32>(select(a + job.slope * b, a / max(b, 1.0), job.mean != 0u));
    return select(0u, bits, bits <= INFINITY_BITS);
}

/// The keys of a row and of those behind it.
fn keys_from(i: u32) -> array<u32, AHEAD> {
    var keys = array<u32, AHEAD>();
    for (var k = 0u; k < AHEAD; k++) { keys[k] = key_of(min(i + k, job.block - 1u)); }
    return keys;
}

fn weight_of(key: u32) -> u32 {
    return 1u;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let own = jobs[group.z];
    if group.x >= own.sets { return; }
    job = own;
    let rows = job.count - job.start;
    table = job.book_from + group.x * 4u * job.capacity;
    aside = job.old_from + group.x * rows;
    let first = table + job.start;
    for (var i = lane; i < rows; i += AHEAD * 256u) {
        var slots = array<u32, AHEAD>();
        for (var k = 0u; k < AHEAD; k++) { slots[k] = book[first + min(i + k * 256u, rows - 1u)]; }
        for (var k = 0u; k < AHEAD; k++) { if i + k * 256u < rows { old[aside + i + k * 256u] = slots[k]; } }
    }
    storageBarrier();
    let cut = radix_cut(lane, job.block, job.keep);

    // Each lane moves a run of neighbouring rows, so one scan over the lanes places them all in order; it fetches some before
    // it looks at the first, so that it waits for memory once.
    let run = (job.block + 255u) / 256u;
    let begin = min(lane * run, job.block);
    let end = min(begin + run, job.block);
    var above = 0u;
    var equal = 0u;
    for (var i = begin; i < end; i += AHEAD) {
        let keys = keys_from(i);
        for (var k = 0u; k < AHEAD; k++) {
            above += u32(i + k < end && keys[k] > cut.x);
            equal += u32(i + k < end && keys[k] == cut.x);
        }
    }
    let above_before = scan_across(lane, above).x;
    var ties = scan_across(lane, equal).x;
    var kept = above_before + min(ties, cut.y);
    for (var i = begin; i < end; i += AHEAD) {
        let keys = keys_from(i);
        var slots = array<u32, AHEAD>();
        for (var k = 0u; k < AHEAD; k++) { slots[k] = old[aside + min(i + k, job.block - 1u)]; }
        for (var k = 0u; k < min(AHEAD, end - i); k++) {
            let stays = keys[k] > cut.x || (keys[k] == cut.x && ties < cut.y);
            book[first + select(rows - job.block + job.keep + i + k - kept, kept, stays)] = slots[k];
            kept += u32(stays);
            ties += u32(keys[k] == cut.x);
        }
    }
    for (var i = job.block + lane; i < rows; i += 256u) {
        book[first + job.keep + i - job.block] = old[aside + i];
    }
}
