// kv_eight: eight neighbouring values of a packed K or V row, from its words straight into registers.
// An element of the words is as many values as a load likes. Rows begin at element `first`; `at` counts them from there
// (slot * G + KV head), `eight` the eights in the row. Values are codes; a row's steps and the middle of the grid
// finish a whole sum.

#import kv_steps

const EIGHTS: u32 = #{HEAD_DIM}u / 8u;

#ifdef K16
@group(0) @binding(2) var<storage, read> k_words: array<vec4<u32>>;
fn k_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> { return halves(k_words[first + at * EIGHTS + eight]); }
#endif
#ifdef K8
@group(0) @binding(2) var<storage, read> k_words: array<vec2<u32>>;
fn k_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> {
    let words = k_words[first + at * EIGHTS + eight];
    return quads(words.x, words.y);
}
#endif
#ifdef K4
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> { return nibbles(k_words[first + at * EIGHTS + eight]); }
#endif
#ifdef K3
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> {
    let start = first + at * (EIGHTS * 3u / 4u);
    return threes(k_words[start + eight / 2u], k_words[start + EIGHTS / 2u + eight / 4u], eight);
}
#endif
#ifdef K2
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> { return pairs(k_words[first + at * (EIGHTS / 2u) + eight / 2u], eight); }
#endif

#ifdef V16
@group(0) @binding(3) var<storage, read> v_words: array<vec4<u32>>;
fn v_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> { return halves(v_words[first + at * EIGHTS + eight]); }
#endif
#ifdef V8
@group(0) @binding(3) var<storage, read> v_words: array<vec2<u32>>;
fn v_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> {
    let words = v_words[first + at * EIGHTS + eight];
    return quads(words.x, words.y);
}
#endif
#ifdef V4
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> { return nibbles(v_words[first + at * EIGHTS + eight]); }
#endif
#ifdef V3
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> {
    let start = first + at * (EIGHTS * 3u / 4u);
    return threes(v_words[start + eight / 2u], v_words[start + EIGHTS / 2u + eight / 4u], eight);
}
#endif
#ifdef V2
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_eight(first: u32, at: u32, eight: u32) -> mat2x4<f32> { return pairs(v_words[first + at * (EIGHTS / 2u) + eight / 2u], eight); }
#endif
