// read: combines words and writes almost nothing; the yardstick for a kernel that only reads.
// source [count] vec4<u32> · out [ceil(count / 4096), 256] u32: the exclusive or of all words of the quads
// 256 * i + lane of a stretch of 4096 quads, i = 0 .. 15
// grid: lines of 256 lanes, 32768 lines to a grid row; a workgroup per stretch, one lane per output.

struct Params { count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

// Quads of a lane, which it all fetches before it uses the first.
const MANY = 16u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stretch = group.y * 32768u + group.x;
    let first = stretch * MANY * 256u;
    if first >= params.count { return; }
    var quads = array<vec4<u32>, MANY>();
    for (var i = 0u; i < MANY; i++) { quads[i] = source[min(first + 256u * i + lane, params.count - 1u)]; }
    var all = vec4<u32>();
    for (var i = 0u; i < MANY; i++) {
        if first + 256u * i + lane < params.count { all ^= quads[i]; }
    }
    out[256u * stretch + lane] = all.x ^ all.y ^ all.z ^ all.w;
}
