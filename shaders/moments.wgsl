// moments: the mean and the covariance of rows, for each of the heads that they consist of.
// rows [>= count, heads * dim] f32, of which those from `first` on count
// out [heads, 1 + dim, dim] f32: a head's mean, then its covariance, row by row
// earlier, with JOINED: the same of `before` rows that came before, and that out tells of too
// grid (squares / LANES, heads), workgroup LANES x SLICES: a lane takes every SLICES-th row and a square of 4 x 4
// covariances on or above the diagonal, which it writes to either side of it.
// Sums are of differences to the first row, so that a large mean costs no digits.

struct Params {
    stride: u32,  // heads * dim / 4
    dim: u32,     // in vec4
    first: u32,
    count: u32,
    before: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
#ifdef JOINED
@group(0) @binding(3) var<storage, read> earlier: array<vec4<f32>>;
#endif

#ifdef SLICED
var<workgroup> partial_products: array<mat4x4<f32>, #{LANES} * #{SLICES}>;
var<workgroup> partial_sums: array<mat2x4<f32>, #{LANES} * #{SLICES}>;
#endif

@compute @workgroup_size(#{LANES}, #{SLICES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let square = group.x * #{LANES}u + lane.x;
    // Row r of the triangle and row dim - 1 - r fill a row of dim + 1 squares together.
    let fold = vec2(min(square / (params.dim + 1u), (params.dim - 1u) / 2u), square % (params.dim + 1u));
    let mirrored = vec2(params.dim - 1u) - fold;
    let down = select(mirrored.x, fold.x, fold.y > fold.x);
    let across = select(mirrored.y, fold.y - 1u, fold.y > fold.x);
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
    if square >= (params.dim + 1u) / 2u * (params.dim + 1u) { return; }
    let share = 1.0 / f32(params.count - params.first);
    let mean_down = sums[0] * share;
    let mean_across = sums[1] * share;
    let to = group.y * (1u + 4u * params.dim) * params.dim;
    var centre = pivot_across + mean_across;
    var above = mat4x4(
        products[0] * share - mean_down.x * mean_across,
        products[1] * share - mean_down.y * mean_across,
        products[2] * share - mean_down.z * mean_across,
        products[3] * share - mean_down.w * mean_across,
    );
#ifdef JOINED
    // Two means and two covariances make one, as their rows together would.
    let part = f32(params.count - params.first) / f32(params.count - params.first + params.before);
    let apart_down = pivot_down + mean_down - earlier[to + down];
    let apart_across = centre - earlier[to + across];
    centre = earlier[to + across] + part * apart_across;
    for (var i = 0u; i < 4u; i++) {
        let moved = part * (1.0 - part) * apart_down[i] * apart_across;
        let of_earlier = earlier[to + (1u + 4u * down + i) * params.dim + across];
        above[i] = (1.0 - part) * of_earlier + part * above[i] + moved;
    }
#endif
    if down == 0u { out[to + across] = centre; }
    let below = transpose(above);
    for (var i = 0u; i < 4u; i++) {
        out[to + (1u + 4u * down + i) * params.dim + across] = above[i];
        out[to + (1u + 4u * across + i) * params.dim + down] = below[i];
    }
}
