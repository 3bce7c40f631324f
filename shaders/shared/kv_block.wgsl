// kv_block: 32 neighbouring values of a packed K or V row at a time, in as few loads as their words take: software adapters
// pay for each. A head of another size than whole blocks has halves only, eight values a block.
// An element of the words is as many values as a load likes. Rows begin at element `first`; `at` counts them from there
// (slot * G + KV head). Values are codes, for kv_steps to finish.
#import kv_steps

const BLOCK: u32 = #{BLOCK}u;
const BLOCKS: u32 = #{HEAD_DIM}u / (8u * BLOCK);
alias Block = array<mat2x4<f32>, BLOCK>;

#ifdef STEPS
fn eights(a: vec4<u32>, b: vec4<u32>) -> Block {
    return Block(quads(a.x, a.y), quads(a.z, a.w), quads(b.x, b.y), quads(b.z, b.w));
}

fn fours(words: vec4<u32>) -> Block {
    return Block(nibbles(words.x), nibbles(words.y), nibbles(words.z), nibbles(words.w));
}

fn low_and_high(a: u32, b: u32, high: u32) -> Block {
    return Block(threes(a, high, 0u), threes(a, high, 1u), threes(b, high, 2u), threes(b, high, 3u));
}

fn twos(words: vec2<u32>) -> Block {
    return Block(pairs(words.x, 0u), pairs(words.x, 1u), pairs(words.y, 0u), pairs(words.y, 1u));
}
#endif

#ifdef K16
@group(0) @binding(2) var<storage, read> k_words: array<vec4<u32>>;
fn k_block(first: u32, at: u32, block: u32) -> Block {
    var values: Block;
    let start = first + (at * BLOCKS + block) * BLOCK;
    for (var i = 0u; i < BLOCK; i++) { values[i] = halves(k_words[start + i]); }
    return values;
}
#endif
#ifdef K8
@group(0) @binding(2) var<storage, read> k_words: array<vec4<u32>>;
fn k_block(first: u32, at: u32, block: u32) -> Block {
    let start = first + (at * BLOCKS + block) * 2u;
    return eights(k_words[start], k_words[start + 1u]);
}
#endif
#ifdef K4
@group(0) @binding(2) var<storage, read> k_words: array<vec4<u32>>;
fn k_block(first: u32, at: u32, block: u32) -> Block { return fours(k_words[first + at * BLOCKS + block]); }
#endif
#ifdef K3
@group(0) @binding(2) var<storage, read> k_words: array<u32>;
fn k_block(first: u32, at: u32, block: u32) -> Block {
    let start = first + at * BLOCKS * 3u;
    let low = start + 2u * block;
    return low_and_high(k_words[low], k_words[low + 1u], k_words[start + 2u * BLOCKS + block]);
}
#endif
#ifdef K2
@group(0) @binding(2) var<storage, read> k_words: array<vec2<u32>>;
fn k_block(first: u32, at: u32, block: u32) -> Block { return twos(k_words[first + at * BLOCKS + block]); }
#endif

#ifdef V16
@group(0) @binding(3) var<storage, read> v_words: array<vec4<u32>>;
fn v_block(first: u32, at: u32, block: u32) -> Block {
    var values: Block;
    let start = first + (at * BLOCKS + block) * BLOCK;
    for (var i = 0u; i < BLOCK; i++) { values[i] = halves(v_words[start + i]); }
    return values;
}
#endif
#ifdef V8
@group(0) @binding(3) var<storage, read> v_words: array<vec4<u32>>;
fn v_block(first: u32, at: u32, block: u32) -> Block {
    let start = first + (at * BLOCKS + block) * 2u;
    return eights(v_words[start], v_words[start + 1u]);
}
#endif
#ifdef V4
@group(0) @binding(3) var<storage, read> v_words: array<vec4<u32>>;
fn v_block(first: u32, at: u32, block: u32) -> Block { return fours(v_words[first + at * BLOCKS + block]); }
#endif
#ifdef V3
@group(0) @binding(3) var<storage, read> v_words: array<u32>;
fn v_block(first: u32, at: u32, block: u32) -> Block {
    let start = first + at * BLOCKS * 3u;
    let low = start + 2u * block;
    return low_and_high(v_words[low], v_words[low + 1u], v_words[start + 2u * BLOCKS + block]);
}
#endif
#ifdef V2
@group(0) @binding(3) var<storage, read> v_words: array<vec2<u32>>;
fn v_block(first: u32, at: u32, block: u32) -> Block { return twos(v_words[first + at * BLOCKS + block]); }
#endif
