// weight_row: values of a packed weight row, before scale and minimum.
//   F16  word = | hi f16 | lo f16 |                      values 2w, 2w+1
//   Q8   word = | b3 | b2 | b1 | b0 |                    values 4w..4w+3
//   Q4   word = | 7 3 | 6 2 | 5 1 | 4 0 |  (hi, lo)      values 8w..8w+7
// Q8 and Q4 rows have one word of scales for 32 values, low half the scale, high half the minimum:
// value = scale * q + minimum. A QUAD is four values; a PACK is four words, a CHUNK eight values.

#ifdef F16
const PACK_QUADS = 2u;
const GROUP_PACKS = 1u;
alias Chunk = vec4<u32>;
fn pair_values(low: u32, high: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(low), unpack2x16float(high));
}
fn quad(words: vec4<u32>, i: u32) -> vec4<f32> { return pair_values(words[2u * i], words[2u * i + 1u]); }
fn chunk_quad(words: Chunk, i: u32) -> vec4<f32> { return quad(words, i); }
#endif
#ifdef Q8
const PACK_QUADS = 4u;
const GROUP_PACKS = 2u;
alias Chunk = vec2<u32>;
fn quad(words: vec4<u32>, i: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(words[i])); }
fn chunk_quad(words: Chunk, i: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(words[i])); }
#endif
#ifdef Q4
const PACK_QUADS = 8u;
const GROUP_PACKS = 1u;
alias Chunk = u32;
fn chunk_quad(word: Chunk, i: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> (4u * i)) & 0x0F0F0F0Fu));
}
fn quad(words: vec4<u32>, i: u32) -> vec4<f32> { return chunk_quad(words[i / 2u], i % 2u); }
#endif
