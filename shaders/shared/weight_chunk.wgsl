// weight_chunk: the eight values of a chunk of a packed weight row, counted from the part's first one.
// The importing shader binds `words: array<Chunk>` and `scales: array<u32>`, as weight_row has them.
#import weight_row

fn weight_chunk(at: u32) -> array<vec4<f32>, 2> {
    let packed = words[at];
#ifdef F16
    return array<vec4<f32>, 2>(chunk_quad(packed, 0u), chunk_quad(packed, 1u));
#else
    let scale = unpack2x16float(scales[at / 4u]);
    return array<vec4<f32>, 2>(
        chunk_quad(packed, 0u) * scale.x + scale.y,
        chunk_quad(packed, 1u) * scale.x + scale.y,
    );
#endif
}
