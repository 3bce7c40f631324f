// score_groups: the attention that each key row gets from the most recent queries, from the softmax's log-sum-exp.
// grid (columns / (4 * LANES), sets), workgroup LANES x SLICES: a lane takes four key rows and every SLICES-th
// tile of four queries, which all lanes of a slice share. Tails repeat the last row and are masked.
// Heads and queries are added in a fixed order, without atomics, so a score has the same bits in every run.
#import score

var<workgroup> partial: array<vec4<f32>, #{LANES} * #{SLICES}>;

const NEXT = vec4(0u, 1u, 2u, 3u);

/// What four queries pay to one key row.
fn paid(row: u32, norm: vec4<f32>, column: u32, logits: vec4<f32>) -> f32 {
    let rows = vec4(row) + NEXT;
    let weights = params.weight + params.weight_step * vec4<f32>(rows - params.oldest);
    let seen = (rows < vec4(params.end)) & (rows >= vec4(column));
    let each = select(vec4(0.0), weights * exp(logits * params.scale - norm), seen);
    return (each.x + each.y) + (each.z + each.w);
}

@compute @workgroup_size(#{LANES}, #{SLICES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let columns = (group.x * #{LANES}u + lane.x) * 4u + NEXT;
    let key_rows = (min(columns, vec4(params.columns - 1u)) + params.prefix) * params.key_stride;
    // No query before the workgroup's first column sees any of its key rows.
    let first = max(max(params.oldest, params.begin), group.x * #{LANES}u * 4u);
    var sum = vec4(0.0);
    for (var n = 0u; n < params.set_heads; n++) {
        let head = group.y * params.set_heads + n;
        let keys = key_rows + head / params.group_heads * params.dim;
        for (var row = first + lane.y * 4u; row < params.end; row += 4u * #{SLICES}u) {
            let rows = min(vec4(row) + NEXT, vec4(params.end - 1u)) - params.begin;
            let at = rows * params.query_stride + head * params.dim;
            // logits[c][r] belongs to key row c and query r: a vector times a matrix dots it with each column.
            var logits = mat4x4<f32>();
            for (var d = 0u; d < params.dim; d++) {
                let queries = mat4x4(q[at.x + d], q[at.y + d], q[at.z + d], q[at.w + d]);
                logits[0] += k[keys.x + d] * queries;
                logits[1] += k[keys.y + d] * queries;
                logits[2] += k[keys.z + d] * queries;
                logits[3] += k[keys.w + d] * queries;
            }
            let norms = rows * params.lse_stride + head;
            let norm = vec4(lse[norms.x], lse[norms.y], lse[norms.z], lse[norms.w]);
            sum += vec4(
                paid(row, norm, columns.x, logits[0]),
                paid(row, norm, columns.y, logits[1]),
                paid(row, norm, columns.z, logits[2]),
                paid(row, norm, columns.w, logits[3]),
            );
        }
    }
    partial[lane.y * #{LANES}u + lane.x] = sum;
    workgroupBarrier();
    if lane.y > 0u { return; }
    for (var slice = 1u; slice < #{SLICES}u; slice++) { sum += partial[slice * #{LANES}u + lane.x]; }
    for (var c = 0u; c < 4u; c++) { finish(sum[c], columns[c], group.y); }
}
