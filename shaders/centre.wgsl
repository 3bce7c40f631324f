// centre: the mean of some of a block's key rows, which are then stored as what they differ from it by.
// k [.., width] f32, rows first, first + stride, ... below `rows` · out [width] f32 · grid (width / 64)

struct Params { width: u32, first: u32, rows: u32, stride: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width { return; }
    var sum = 0.0;
    var count = 0.0;
    for (var row = params.first; row < params.rows; row += params.stride) {
        sum += k[row * params.width + id.x];
        count += 1.0;
    }
    out[id.x] = sum / max(count, 1.0);
}
