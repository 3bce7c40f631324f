// weight_row: values of a packed weight row, before scale and minimum.
//   F16  word = | hi f16 | lo f16 |                      values 2w+1, 2w
//   Q8   word = | b3 | b2 | b1 | b0 |                    values 4w+3 .. 4w
//   Q4   word = | 7 3 | 6 2 | 5 1 | 4 0 |  (hi, lo)      values 8w+7 .. 8w
// Q8 and Q4 rows have one word of scales for 32 values, low half the scale, high half the minimum:
// value = scale * q + minimum. A quad is four values, a chunk eight, a pack four words, a step 32 values.
// A raw quad is cheaper, but each value is too large by a power of two that its place alone decides: times place(i),
// which may scale the other factor of a product instead, once for many rows, it is the quad.

#ifdef F16
const PACK_QUADS = 2u;
const STEP_PACKS = 4u;
alias Chunk = vec4<u32>;
fn quad(words: vec4<u32>, i: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words[2u * i]), unpack2x16float(words[2u * i + 1u]));
}
fn chunk_quad(words: Chunk, i: u32) -> vec4<f32> { return quad(words, i); }
fn raw_quad(words: vec4<u32>, i: u32) -> vec4<f32> { return quad(words, i); }
fn place(i: u32) -> vec4<f32> { return vec4<f32>(1.0); }
#endif
#ifdef Q8
const PACK_QUADS = 4u;
const STEP_PACKS = 2u;
alias Chunk = vec2<u32>;
fn quad(words: vec4<u32>, i: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(words[i])); }
fn chunk_quad(words: Chunk, i: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(words[i])); }
fn raw_quad(words: vec4<u32>, i: u32) -> vec4<f32> { return quad(words, i); }
fn place(i: u32) -> vec4<f32> { return vec4<f32>(1.0); }
#endif
#ifdef Q4
const PACK_QUADS = 8u;
const STEP_PACKS = 1u;
alias Chunk = u32;
fn chunk_quad(word: Chunk, i: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> (4u * i)) & 0x0F0F0F0Fu));
}
fn quad(words: vec4<u32>, i: u32) -> vec4<f32> { return chunk_quad(words[i / 2u], i % 2u); }
// The last nibble is shifted after all, so that no value is negative: signed conversions are the faster ones.
fn raw_quad(words: vec4<u32>, i: u32) -> vec4<f32> {
    let word = words[i / 2u];
    if i % 2u == 0u {
        return vec4<f32>(vec4<i32>(vec4<u32>(word) & vec4<u32>(0xFu, 0xF00u, 0xF0000u, 0xF000000u)));
    }
    return vec4<f32>(vec4<i32>(vec4<u32>(vec3<u32>(word) & vec3<u32>(0xF0u, 0xF000u, 0xF00000u), word >> 28u)));
}
fn place(i: u32) -> vec4<f32> {
    if i % 2u == 0u { return vec4<f32>(1.0, 0x1p-8, 0x1p-16, 0x1p-24); }
    return vec4<f32>(0x1p-4, 0x1p-12, 0x1p-20, 1.0);
}
#endif
