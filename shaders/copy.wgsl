// copy: words as they are; the yardstick for the bandwidth that a kernel can reach.
// source, out [count] vec4<u32>
// grid: lines of 128 lanes, 32768 lines to a grid row; one lane per vec4.

struct Params { count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * 32768u + group.x) * 128u + lane;
    if i >= params.count { return; }
    out[i] = source[i];
}
