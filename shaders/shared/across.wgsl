// across: what the 256 lanes of a workgroup know together. Call each function from every lane.
// Each starts with a barrier, so that a slow lane has read the previous answer before its memory is reused.

var<workgroup> across_sums: array<f32, 256>;
var<workgroup> across_counts: array<u32, 256>;

/// The sum of one value per lane, always added in the same order.
fn sum_across(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    across_sums[lane] = value;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { across_sums[lane] += across_sums[lane + half]; }
    }
    workgroupBarrier();
    return across_sums[0];
}

/// The largest of one value per lane.
fn max_across(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    across_sums[lane] = value;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half { across_sums[lane] = max(across_sums[lane], across_sums[lane + half]); }
    }
    workgroupBarrier();
    return across_sums[0];
}

/// The sum of the counts of the lanes before this one, and of all lanes.
fn scan_across(lane: u32, count: u32) -> vec2<u32> {
    workgroupBarrier();
    across_counts[lane] = count;
    var sum = count;
    for (var reach = 1u; reach < 256u; reach *= 2u) {
        workgroupBarrier();
        let before = across_counts[max(lane, reach) - reach];
        workgroupBarrier();
        if lane >= reach { sum += before; }
        across_counts[lane] = sum;
    }
    workgroupBarrier();
    return vec2(sum - count, across_counts[255]);
}
