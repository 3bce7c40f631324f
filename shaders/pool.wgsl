// pool: what a row and its neighbours score together, so that a selection keeps runs of rows.
// scores [sets, columns] f32, not negative · out [sets, columns] f32
// grid (columns / 64, sets); one lane per column, whose neighbours are at most `reach` away.
// The first `forced` columns get the largest number and are nobody's neighbours.

struct Params { columns: u32, forced: u32, reach: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

const LARGEST = 0x1.fffffep+127f;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= params.columns { return; }
    let first = id.y * params.columns;
    let begin = max(params.forced, max(id.x, params.reach) - params.reach);
    let end = min(id.x + params.reach + 1u, params.columns);
    var pooled = 0.0;
    for (var i = begin; i < end; i++) {
#ifdef AVERAGE
        pooled += scores[first + i];
#else
        pooled = max(pooled, scores[first + i]);
#endif
    }
#ifdef AVERAGE
    pooled /= f32(end - begin);
#endif
    out[first + id.x] = select(pooled, LARGEST, id.x < params.forced);
}
