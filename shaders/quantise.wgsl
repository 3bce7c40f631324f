// quantise: activations, times a norm's weights with NORM, as an operand (operand.wgsl).
// x [columns][width] f32 · weight [width] f32 · to_x: the operand; squares are those of x before the weights
// grid (groups / 8, columns): a workgroup of 64 lanes takes eight groups, eight lanes each. Past the width are zeros.
#import operand

struct Params { width: u32, groups: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> to_x: array<u32>;
#ifdef NORM
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let g = group.x * 8u + lane / 8u;
    let at = g * 8u + lane % 8u;
    let quads = params.width / 4u;
    var quad = vec4<f32>();
    if at < quads { quad = x[group.y * quads + at]; }
    let squares = dot(quad, quad);
#ifdef NORM
    if at < quads { quad *= weight[at]; }
#endif
    // Lanes of a group leave together.
    if g >= params.groups { return; }
    store_group(group.y, params.groups, g, lane % 8u, quad, squares);
}
