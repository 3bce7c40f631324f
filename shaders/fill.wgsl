// fill: makes weights on the device: random bits, random halves, or one word repeated.
// out [count] u32
// grid (count / 64 over x and y); one lane per word.
// The bits are a hash of seed and index (pcg), so the same seed gives the same weights on every device.

struct Params { count: u32, row: u32, seed: u32, value: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

fn pcg(x: u32) -> u32 {
    let state = x * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.y * params.row + id.x;
    if id.x >= params.row || i >= params.count { return; }
#ifdef CONSTANT
    out[i] = params.value;
#else
    let bits = pcg(i ^ pcg(params.seed));
#ifdef HALVES
    let pair = vec2<f32>(vec2(bits & 0xffffu, bits >> 16u)) / 32768.0 - 1.0;
    out[i] = pack2x16float(pair * bitcast<f32>(params.value));
#else
    out[i] = bits;
#endif
#endif
}
