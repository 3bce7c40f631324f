// accumulate: adds one decode query's attention to the accumulators of the generated rows that may be thinned, for many
// sequences.
// rooms: scores and ends of all heads, see paid · book [4, capacity] u32: slot of the i-th live row, then by slot:
// position, A, B (f32 bits)
// grid ((count - first) / 64, 1, sequences); one lane per live row.

#import jobs
#import paid

struct Job {
    @align(16) heads: u32,
    capacity: u32,
    first: u32,
    count: u32,
    prompt: u32,
    block: u32,
    position: u32,
    logits_from: u32,
    ends_from: u32,
    book_from: u32,
}

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(2) var<storage, read_write> book: array<u32>;

fn add(at: u32, value: f32) {
    book[at] = bitcast<u32>(bitcast<f32>(book[at]) + value);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let job = jobs[id.z];
    let i = job.first + id.x;
    if i >= job.count { return; }
    let slot = job.book_from + min(book[job.book_from + i], job.capacity - 1u);
    let after = book[job.capacity + slot] + 1u;
    if after < job.prompt { return; }
    // The first position whose query counts is the one after the block's last column.
    let block = (after - job.prompt) / job.block;
    let start = job.prompt + block * job.block + job.block - 1u;
    if job.position < start { return; }
    let attention = paid(job, 0u, i);
    add(2u * job.capacity + slot, attention);
    add(3u * job.capacity + slot, f32(job.position - start) * attention);
}
