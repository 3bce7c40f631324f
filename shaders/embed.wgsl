// embed: unpacks the table rows of some tokens and scales them.
// tokens [at + count] u32 · table: one part of [vocabulary, 8 * chunks], packed · out [count, 8 * chunks] f32
// grid (chunks / 64, count); one lane per chunk of eight values.
// A token past the vocabulary counts as the last one. A part that does not hold a token leaves its row alone.
#import weight_row

struct Params { first: u32, rows: u32, vocabulary: u32, chunks: u32, at: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> words: array<Chunk>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    // Below the part's first row the subtraction wraps, so one comparison covers both ends.
    let row = min(tokens[params.at + id.y], params.vocabulary - 1u) - params.first;
    if id.x >= params.chunks || row >= params.rows { return; }
    let chunk = row * params.chunks + id.x;
#ifdef F16
    let scale = vec2<f32>(1.0, 0.0) * params.scale;
#else
    let scale = unpack2x16float(scales[chunk / 4u]) * params.scale;
#endif
    let at = (id.y * params.chunks + id.x) * 2u;
    out[at] = chunk_quad(words[chunk], 0u) * scale.x + scale.y;
    out[at + 1u] = chunk_quad(words[chunk], 1u) * scale.x + scale.y;
}
