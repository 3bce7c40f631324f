// gather: copies chosen rows of a table, keeping their order.
// source [rows, width] u32 · index [count] u32 · out [count, width] u32
// grid (width / 64, count); one lane per word. A row index past the end copies the last row.
// Words are copied as bits, so the same kernel serves f32 rows and u32 positions.

struct Params { width: u32, rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.width { return; }
    let row = min(index[id.y], params.rows - 1u);
    out[id.y * params.width + id.x] = source[row * params.width + id.x];
}
