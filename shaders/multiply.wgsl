// multiply: chains of multiplications and additions in registers; the yardstick for a kernel's arithmetic.
// out [count] f32: the sum of twelve values of a lane, which start at i modulo 64 + 0 .. 11 for output i and take
// 8 * rounds steps x = x * factor + addend
// grid: lines of 64 lanes, 32768 lines to a grid row; one lane per output.
// f32; a device may fuse a step, which then rounds once instead of twice.

struct Params { count: u32, rounds: u32, factor: f32, addend: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

fn four(x: vec4<f32>) -> vec4<f32> {
    let first = x * params.factor + params.addend;
    let second = first * params.factor + params.addend;
    let third = second * params.factor + params.addend;
    return third * params.factor + params.addend;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * 32768u + group.x) * 64u + lane;
    if i >= params.count { return; }
    var a = vec4(0.0, 1.0, 2.0, 3.0) + f32(lane);
    var b = a + 4.0;
    var c = a + 8.0;
    for (var round = 0u; round < params.rounds; round++) {
        a = four(a);
        b = four(b);
        c = four(c);
        a = four(a);
        b = four(b);
        c = four(c);
    }
    let sum = a + b + c;
    out[i] = sum.x + sum.y + sum.z + sum.w;
}
