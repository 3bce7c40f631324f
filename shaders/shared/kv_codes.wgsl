// kv_codes: eight neighbouring values of a packed row, as they stand in its words: halves, or the codes of a grid.
// kv_code.rs draws the words. value = step * (code - middle), one step for the row; halves have step 1, middle 0.

fn middle(bits: u32) -> f32 { return select(0.5 * f32((1u << bits) - 1u), 0.0, bits == 16u); }

fn quads(low: u32, high: u32) -> mat2x4<f32> {
    return mat2x4(vec4<f32>(unpack4xU8(low)), vec4<f32>(unpack4xU8(high)));
}

fn halves(words: vec4<u32>) -> mat2x4<f32> {
    return mat2x4(vec4(unpack2x16float(words.x), unpack2x16float(words.y)),
                  vec4(unpack2x16float(words.z), unpack2x16float(words.w)));
}

fn nibbles(word: u32) -> mat2x4<f32> { return quads(word & 0x0F0F0F0Fu, (word >> 4u) & 0x0F0F0F0Fu); }

// `word` is number eight / 2 of the row.
fn pairs(word: u32, eight: u32) -> mat2x4<f32> {
    let low = word >> (4u * (eight % 2u));
    return quads(low & 0x03030303u, (low >> 2u) & 0x03030303u);
}

// `word` is number eight / 2 of the low bits, `top` number eight / 4 of the high ones.
fn threes(word: u32, top: u32, eight: u32) -> mat2x4<f32> {
    let low = word >> (4u * (eight % 2u));
    let high = top >> (2u * (eight % 4u));
    return quads((low & 0x03030303u) | ((high & 0x01010101u) << 2u),
                 ((low >> 2u) & 0x03030303u) | (((high >> 1u) & 0x01010101u) << 2u));
}
