// attention_job: one token of one sequence in decode attention. `count` of `capacity` rows live; a head has `parts` parts,
// of which this dispatch leaves `splits`, from `first_part` on; what ends in `_from` is where the sequence's values begin,
// in elements. `out_from` says it of the output, or else of this dispatch's first part. A head's parts, its scores and its
// ends lie in one buffer: the ends are the maximum of the scores and the sum of their weights, exp(score - maximum).
#import jobs

struct Job {
    @align(16) count: u32,
    capacity: u32,
    sets: u32,
    kv_heads: u32,
    group: u32,
    splits: u32,
    parts: u32,
    scale: f32,
    q_from: u32,
    k_from: u32,
    v_from: u32,
    steps_from: u32,
    book_from: u32,
    out_from: u32,
    ends_from: u32,
    logits_from: u32,
    first_part: u32,
    partials_from: u32,
    arrived_from: u32,
}

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;

// Scores of a head, rounded up so that they can be stored by twos.
fn logits_stride(job: Job) -> u32 { return (job.capacity + 1u) / 2u * 2u; }
