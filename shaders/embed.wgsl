// embed: unpacks the table rows of some tokens and scales them.
// tokens [at + count] u32 · table: one part of [vocabulary, 8 * chunks], packed · out [count, 8 * chunks] f32
// grid (chunks / 64, count, jobs); one lane per chunk of eight values. A job's rows of `out` begin at row `to`.
// A token past the vocabulary counts as the last one. A part that does not hold a token leaves its row alone.
#import jobs
#import weight_pack

struct Job { @align(16) first: u32, rows: u32, vocabulary: u32, chunks: u32, at: u32, to: u32, scale: f32 }

@group(0) @binding(0) var<uniform> jobs: array<Job, JOBS>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let job = jobs[id.z];
    // Below the part's first row the subtraction wraps, so one comparison covers both ends.
    let row = min(tokens[job.at + id.y], job.vocabulary - 1u) - job.first;
    if id.x >= job.chunks || row >= job.rows { return; }
#ifdef F16
    let scale = vec2<f32>(1.0, 0.0) * job.scale;
#else
    let scale = weight_scale(row_start(row, job.chunks / 4u) + TILE * (id.x / 4u)) * job.scale;
#endif
    let packed = weight_pack(row_start(row, 2u * job.chunks / PACK_QUADS) + TILE * (2u * id.x / PACK_QUADS));
    let first = 2u * id.x % PACK_QUADS;
    let at = ((job.to + id.y) * job.chunks + id.x) * 2u;
    out[at] = quad(packed, first) * scale.x + scale.y;
    out[at + 1u] = quad(packed, first + 1u) * scale.x + scale.y;
}
