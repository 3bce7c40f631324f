// moments: the mean and the covariance of rows, for each of the heads that they consist of.
// rows [>= count, heads * dim] f32, of which those from `first` on count
// out [heads, 1 + dim, dim] f32: a head's mean, then its covariance, row by row
// grid (dim * dim / 16 / LANES, heads), workgroup LANES x SLICES: a lane takes a square of 4 x 4 covariances and
// every SLICES-th row. Sums are of differences to the first row, so that a large mean costs no digits.

struct Params {
    stride: u32,  // heads * dim / 4
    dim: u32,     // in vec4
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

#ifdef SLICED
var<workgroup> partial_products: array<mat4x4<f32>, #{LANES} * #{SLICES}>;
var<workgroup> partial_sums: array<mat2x4<f32>, #{LANES} * #{SLICES}>;
#endif

@compute @workgroup_size(#{LANES}, #{SLICES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let square = group.x * #{LANES}u + lane.x;
    let down = min(square / params.dim, params.dim - 1u);
    let across = square % params.dim;
    let head = group.y * params.dim;
    let origin = params.first * params.stride + head;
    let pivot_down = rows[origin + down];
    let pivot_across = rows[origin + across];
    var products = mat4x4<f32>();
    var sums = mat2x4<f32>();
    for (var row = params.first + lane.y; row < params.count; row += #{SLICES}u) {
        let at = row * params.stride + head;
        let d = rows[at + down] - pivot_down;
        let a = rows[at + across] - pivot_across;
        products[0] += d.x * a;
        products[1] += d.y * a;
        products[2] += d.z * a;
        products[3] += d.w * a;
        sums[0] += d;
        sums[1] += a;
    }
#ifdef SLICED
    let own = lane.y * #{LANES}u + lane.x;
    partial_products[own] = products;
    partial_sums[own] = sums;
    workgroupBarrier();
    if lane.y > 0u { return; }
    for (var slice = 1u; slice < #{SLICES}u; slice++) {
        products += partial_products[slice * #{LANES}u + lane.x];
        sums += partial_sums[slice * #{LANES}u + lane.x];
    }
#endif
    if square >= params.dim * params.dim { return; }
    let share = 1.0 / f32(params.count - params.first);
    let mean_down = sums[0] * share;
    let mean_across = sums[1] * share;
    let to = group.y * (1u + 4u * params.dim) * params.dim + across;
    if down == 0u { out[to] = pivot_across + mean_across; }
    for (var i = 0u; i < 4u; i++) {
        let covariance = products[i] * share - mean_down[i] * mean_across;
        out[to + (1u + 4u * down + i) * params.dim] = covariance;
    }
}
