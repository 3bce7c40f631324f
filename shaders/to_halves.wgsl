// to_halves: values as halves, two to a word; what is beyond ±65504 is cut off.
// x f32 · out words, of which the `eights` groups of eight values from `first` on are written
// grid: a lane for each eight values, in workgroups of 64, 32768 to a grid row.

struct Params { first: u32, eights: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;

fn pair(v: vec2<f32>) -> u32 {
    return pack2x16float(clamp(v, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let turn = (group.y * 32768u + group.x) * 64u + lane;
    if turn >= params.eights { return; }
    let at = params.first + turn;
    let low = x[2u * at];
    let high = x[2u * at + 1u];
    out[at] = vec4<u32>(pair(low.xy), pair(low.zw), pair(high.xy), pair(high.zw));
}
