// kv_raw: eight neighbouring values of a packed K or V row in two steps, so that words can be on their way while others
// are worked on: `k_raw` loads, `k_codes` makes numbers. Arguments as in `kv_eight`.
// Many GPUs convert integers to floats at a quarter of their speed. So codes are put into the mantissa of 2^23, where
// they lie in their word: that makes each code's distance from the grid's middle times a power of two, exactly. What is
// multiplied with low and high values is divided by that power: K_LOW and K_HIGH, V_LOW and V_HIGH.

#import kv_steps

const EIGHTS: u32 = #{HEAD_DIM}u / 8u;
const MANTISSA: u32 = 0x4B000000u;

// Four codes under their masks, of which `first` has two and `last` two.
fn four_codes(first: u32, last: u32, masks: vec4<u32>, scale: vec4<f32>, middle: f32) -> vec4<f32> {
    return bitcast<vec4<f32>>((vec4(first, first, last, last) & masks) | vec4(MANTISSA)) - (8388608.0 + middle * scale);
}

// Shifted so that every code is an even multiple: the middle lies half way between two.
fn in_mantissa(word: u32) -> vec2<u32> { return vec2(word << 4u, word >> 12u); }

// The bytes of a word.
const BYTES = vec4<f32>(16.0, 4096.0, 16.0, 4096.0);
fn byte_codes(word: u32, middle: f32) -> vec4<f32> {
    let w = in_mantissa(word);
    return four_codes(w.x, w.y, vec4(0xFF0u, 0xFF000u, 0xFF0u, 0xFF000u), BYTES, middle);
}

fn byte_pair_codes(words: vec2<u32>, middle: f32) -> mat2x4<f32> {
    return mat2x4(byte_codes(words.x, middle), byte_codes(words.y, middle));
}

const HIGH_NIBBLES = vec4<f32>(256.0, 65536.0, 256.0, 65536.0);
fn nibble_codes(word: u32, middle: f32) -> mat2x4<f32> {
    let w = in_mantissa(word);
    return mat2x4(four_codes(w.x, w.y, vec4(0xF0u, 0xF000u, 0xF0u, 0xF000u), BYTES, middle),
                  four_codes(w.x, w.y, vec4(0xF00u, 0xF0000u, 0xF00u, 0xF0000u), HIGH_NIBBLES, middle));
}

// `word` is number eight / 2 of the row.
const HIGH_PAIRS = vec4<f32>(64.0, 16384.0, 64.0, 16384.0);
fn pair_codes(word: u32, eight: u32, middle: f32) -> mat2x4<f32> {
    let w = in_mantissa(word >> (4u * (eight % 2u)));
    return mat2x4(four_codes(w.x, w.y, vec4(0x30u, 0x3000u, 0x30u, 0x3000u), BYTES, middle),
                  four_codes(w.x, w.y, vec4(0xC0u, 0xC000u, 0xC0u, 0xC000u), HIGH_PAIRS, middle));
}

// The word of low bits and that of high bits, as in `threes`.
fn three_codes(words: vec2<u32>, eight: u32, middle: f32) -> mat2x4<f32> {
    let low = words.x >> (4u * (eight % 2u));
    let high = words.y >> (2u * (eight % 4u));
    return mat2x4(byte_codes((low & 0x03030303u) | ((high & 0x01010101u) << 2u), middle),
                  byte_codes(((low >> 2u) & 0x03030303u) | (((high >> 1u) & 0x01010101u) << 2u), middle));
}

#ifdef K16
alias KRaw = vec4<u32>;
const K_LOW = vec4<f32>(1.0);
const K_HIGH = vec4<f32>(1.0);
@group(0) @binding(2) var<storage, read> k_words: array<vec4<u32>>;
fn k_raw(first: u32, at: u32, eight: u32) -> KRaw { return k_words[first + at * EIGHTS + eight]; }
fn k_codes(raw: KRaw, eight: u32) -> mat2x4<f32> { return halves(raw); }
#endif
#ifdef K8
alias KRaw = vec2<u32>;
const K_LOW = BYTES;
const K_HIGH = BYTES;
@group(0) @binding(2) var<storage, read> k_words: array<vec2<u32>>;
fn k_raw(first: u32, at: u32, eight: u32) -> KRaw { return k_words[first + at * EIGHTS + eight]; }
fn k_codes(raw: KRaw, eight: u32) -> mat2x4<f32> { return byte_pair_codes(raw, K_MIDDLE); }
#endif
#ifdef K4
alias KRaw = u32;
const K_LOW = BYTES;
const K_HIGH = HIGH_NIBBLES;
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_raw(first: u32, at: u32, eight: u32) -> KRaw { return k_words[first + at * EIGHTS + eight]; }
fn k_codes(raw: KRaw, eight: u32) -> mat2x4<f32> { return nibble_codes(raw, K_MIDDLE); }
#endif
#ifdef K3
alias KRaw = vec2<u32>;
const K_LOW = BYTES;
const K_HIGH = BYTES;
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_raw(first: u32, at: u32, eight: u32) -> KRaw {
    let start = first + at * (EIGHTS * 3u / 4u);
    return vec2(k_words[start + eight / 2u], k_words[start + EIGHTS / 2u + eight / 4u]);
}
fn k_codes(raw: KRaw, eight: u32) -> mat2x4<f32> { return three_codes(raw, eight, K_MIDDLE); }
#endif
#ifdef K2
alias KRaw = u32;
const K_LOW = BYTES;
const K_HIGH = HIGH_PAIRS;
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_raw(first: u32, at: u32, eight: u32) -> KRaw { return k_words[first + at * (EIGHTS / 2u) + eight / 2u]; }
fn k_codes(raw: KRaw, eight: u32) -> mat2x4<f32> { return pair_codes(raw, eight, K_MIDDLE); }
#endif

#ifdef V16
alias VRaw = vec4<u32>;
const V_LOW = vec4<f32>(1.0);
const V_HIGH = vec4<f32>(1.0);
@group(0) @binding(3) var<storage, read> v_words: array<vec4<u32>>;
fn v_raw(first: u32, at: u32, eight: u32) -> VRaw { return v_words[first + at * EIGHTS + eight]; }
fn v_codes(raw: VRaw, eight: u32) -> mat2x4<f32> { return halves(raw); }
#endif
#ifdef V8
alias VRaw = vec2<u32>;
const V_LOW = BYTES;
const V_HIGH = BYTES;
@group(0) @binding(3) var<storage, read> v_words: array<vec2<u32>>;
fn v_raw(first: u32, at: u32, eight: u32) -> VRaw { return v_words[first + at * EIGHTS + eight]; }
fn v_codes(raw: VRaw, eight: u32) -> mat2x4<f32> { return byte_pair_codes(raw, V_MIDDLE); }
#endif
#ifdef V4
alias VRaw = u32;
const V_LOW = BYTES;
const V_HIGH = HIGH_NIBBLES;
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_raw(first: u32, at: u32, eight: u32) -> VRaw { return v_words[first + at * EIGHTS + eight]; }
fn v_codes(raw: VRaw, eight: u32) -> mat2x4<f32> { return nibble_codes(raw, V_MIDDLE); }
#endif
#ifdef V3
alias VRaw = vec2<u32>;
const V_LOW = BYTES;
const V_HIGH = BYTES;
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_raw(first: u32, at: u32, eight: u32) -> VRaw {
    let start = first + at * (EIGHTS * 3u / 4u);
    return vec2(v_words[start + eight / 2u], v_words[start + EIGHTS / 2u + eight / 4u]);
}
fn v_codes(raw: VRaw, eight: u32) -> mat2x4<f32> { return three_codes(raw, eight, V_MIDDLE); }
#endif
#ifdef V2
alias VRaw = u32;
const V_LOW = BYTES;
const V_HIGH = HIGH_PAIRS;
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_raw(first: u32, at: u32, eight: u32) -> VRaw { return v_words[first + at * (EIGHTS / 2u) + eight / 2u]; }
fn v_codes(raw: VRaw, eight: u32) -> mat2x4<f32> { return pair_codes(raw, eight, V_MIDDLE); }
#endif
