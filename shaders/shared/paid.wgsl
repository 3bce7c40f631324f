// paid: what one decode query paid to a row, the mean of its softmax weights over `job.heads` heads from `first` on.
// rooms: scores [heads, capacity rounded up to even] f32, scaled, by table index; ends [heads][2]: the maximum of a head's
// scores, and the sum of exp(score - maximum). The importing shader declares Job.
@group(0) @binding(1) var<storage, read> rooms: array<f32>;

fn paid(job: Job, first: u32, row: u32) -> f32 {
    let stride = (job.capacity + 1u) / 2u * 2u;
    var sum = 0.0;
    for (var head = first; head < first + job.heads; head++) {
        let end = job.ends_from + 2u * head;
        sum += exp(rooms[job.logits_from + head * stride + row] - rooms[end]) / rooms[end + 1u];
    }
    return sum / f32(job.heads);
}
