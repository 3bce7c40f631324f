// observe: adds one decode query's attention to the sums of all live rows, for many sequences: A and B fade, then A gains
// the weighted attention and B the weight.
// rooms: scores and ends of all heads, see paid
// book: its tables, see kv_row.rs
// grid (count / 64, sets, sequences); one lane per live row.

#import jobs
#import paid

struct Job {
    @align(16) heads: u32,     // query heads that share one table
    sets: u32,
    capacity: u32,
    count: u32,
    fade: f32,
    weight: f32,
    logits_from: u32,
    ends_from: u32,
    book_from: u32,
}

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(2) var<storage, read_write> book: array<u32>;

fn add(job: Job, at: u32, value: f32) {
    book[at] = bitcast<u32>(job.fade * bitcast<f32>(book[at]) + value);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let job = jobs[id.z];
    if id.x >= job.count || id.y >= job.sets { return; }
    let table = job.book_from + id.y * 4u * job.capacity;
    let slot = min(book[table + id.x], job.capacity - 1u);
    add(job, table + 2u * job.capacity + slot, job.weight * paid(job, id.y * job.heads, id.x));
    add(job, table + 3u * job.capacity + slot, job.weight);
}
