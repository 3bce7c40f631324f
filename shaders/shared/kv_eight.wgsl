// kv_eight: eight neighbouring values of a packed K or V row, from its words straight into registers.
// Whatever the width, one element of the words is eight values: vec4<u32>, vec2<u32> or u32.
// `at` counts rows in the cache (slot * G + KV head), `eight` the eights in the row.

const EIGHTS: u32 = #{HEAD_DIM}u / 8u;
const GROUPS: u32 = #{HEAD_DIM}u / 32u;

#ifdef K16
@group(0) @binding(2) var<storage, read> k_words: array<vec4<u32>>;
#endif
#ifdef K8
@group(0) @binding(2) var<storage, read> k_words: array<vec2<u32>>;
#endif
#ifdef K4
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
#endif
@group(0) @binding(3) var<storage, read> k_scales: array<u32>;
#ifdef V16
@group(0) @binding(4) var<storage, read> v_words: array<vec4<u32>>;
#endif
#ifdef V8
@group(0) @binding(4) var<storage, read> v_words: array<vec2<u32>>;
#endif
#ifdef V4
@group(0) @binding(4) var<storage, read> v_words: array<u32>;
#endif
@group(0) @binding(5) var<storage, read> v_scales: array<u32>;

fn halves(words: vec4<u32>) -> mat2x4<f32> {
    return mat2x4(vec4(unpack2x16float(words.x), unpack2x16float(words.y)),
                  vec4(unpack2x16float(words.z), unpack2x16float(words.w)));
}

fn bytes(words: vec2<u32>, packed: u32) -> mat2x4<f32> {
    let scale = unpack2x16float(packed);
    return mat2x4(vec4<f32>(unpack4xU8(words.x)) * scale.x + scale.y,
                  vec4<f32>(unpack4xU8(words.y)) * scale.x + scale.y);
}

fn nibbles(word: u32, packed: u32) -> mat2x4<f32> {
    return bytes(vec2(word & 0x0F0F0F0Fu, (word >> 4u) & 0x0F0F0F0Fu), packed);
}

fn k_eight(at: u32, eight: u32) -> mat2x4<f32> {
    let words = k_words[at * EIGHTS + eight];
#ifdef K16
    return halves(words);
#endif
#ifdef K8
    return bytes(words, k_scales[at * GROUPS + eight / 4u]);
#endif
#ifdef K4
    return nibbles(words, k_scales[at * GROUPS + eight / 4u]);
#endif
}

fn v_eight(at: u32, eight: u32) -> mat2x4<f32> {
    let words = v_words[at * EIGHTS + eight];
#ifdef V16
    return halves(words);
#endif
#ifdef V8
    return bytes(words, v_scales[at * GROUPS + eight / 4u]);
#endif
#ifdef V4
    return nibbles(words, v_scales[at * GROUPS + eight / 4u]);
#endif
}
