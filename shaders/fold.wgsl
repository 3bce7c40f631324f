// fold: moves values of rows that go into the rows that stay for them, and says how many rows each then stands for.
// received [sets][columns] · to [sets][rows], see nearest · v [prefix + rows, G * hd] · bias [sets][rows], of rows
// that stay · grid (rows / 64, sets): one lane per row. It writes its own value and reads those that go to it,
// which no lane writes.

struct Params {
    rows: u32,
    columns: u32,
    prefix: u32,
    value_stride: u32,  // G * hd / 4
    width: u32,         // vec4 of a set's values in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> received: array<f32>;
@group(0) @binding(2) var<storage, read> to: array<u32>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> bias: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    let head_set = id.y;
    if row >= params.rows { return; }
    let list = head_set * params.rows;
    if to[list + row] != row { return; }
    var total = 1.0;
    if row < params.columns {
        let scores = head_set * params.columns;
        let own = max(received[scores + row], 1e-30);
        let own_at = (params.prefix + row) * params.value_stride + head_set * params.width;
        for (var other = 0u; other < params.columns; other++) {
            if other == row || to[list + other] != row { continue; }
            let weight = min(received[scores + other] / own, 1.0);
            total += weight;
            let at = (params.prefix + other) * params.value_stride + head_set * params.width;
            for (var d = 0u; d < params.width; d++) {
                let value = v[own_at + d];
                v[own_at + d] = value + (v[at + d] - value) * (weight / total);
            }
        }
    }
    bias[list + row] = log(total);
}
