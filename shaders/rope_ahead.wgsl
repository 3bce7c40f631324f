// rope_ahead: turns the queries of a block on to where later ones will stand, averaged over a run of positions.
// q, out [count, heads * hd] · positions [count] · frequencies [PAIRS]
// grid: one lane per (row, pair of dimensions); the lane serves that pair in every head.
// The average of equal steps round a circle is their middle, drawn in by sin(n a / 2) / (n sin(a / 2)).

#import rope

struct Params { count: u32, heads: u32, steps: f32, middle: f32 }

const HEAD_DIM: u32 = #{HEAD_DIM}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> frequencies: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / (HEAD_DIM / 2u);
    let pair = id.x % (HEAD_DIM / 2u);
    if row >= params.count { return; }
    var by = vec2(1.0, 0.0);
    if pair < PAIRS {
        let angle = frequencies[pair];
        let chord = turn(0.5 * angle).y * params.steps;
        let drawn = turn(0.5 * params.steps * angle).y / chord;
        by = turn((params.middle - f32(positions[row])) * angle) * select(drawn, 1.0, chord == 0.0);
    }
    let dims = pair_dims(pair);
    for (var head = 0u; head < params.heads; head++) {
        let at = (row * params.heads + head) * HEAD_DIM;
        let turned = rotate(vec2(q[at + dims.x], q[at + dims.y]), by);
        out[at + dims.x] = turned.x;
        out[at + dims.y] = turned.y;
    }
}
