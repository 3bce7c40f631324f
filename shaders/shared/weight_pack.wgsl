// weight_pack: one part of a weight matrix by packs of four words, and its scales, in the layouts of part.rs.
// With TILES rows lie in tiles of 32, which texel by texel take turns. With TEXTURES a texel is what a load from a
// buffer would bring, 1024 of them to a row.
#import weight_row

#ifdef TILES
const TILE = 32u;
#else
const TILE = 1u;
#endif

// The place of texel 0 of a row of so many texels; texel i follows at + TILE * i.
fn row_start(row: u32, width: u32) -> u32 { return row / TILE * TILE * width + row % TILE; }

#ifdef TEXTURES
@group(0) @binding(1) var words: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(2) var scales: texture_storage_2d<r32uint, read>;
fn texel(at: u32) -> vec2<u32> { return vec2<u32>(at % 1024u, at / 1024u); }
fn weight_pack(at: u32) -> vec4<u32> { return textureLoad(words, texel(at)); }
fn weight_scale(at: u32) -> vec2<f32> { return unpack2x16float(textureLoad(scales, texel(at)).x); }
#else
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
fn weight_pack(at: u32) -> vec4<u32> { return words[at]; }
fn weight_scale(at: u32) -> vec2<f32> { return unpack2x16float(scales[at]); }
#endif
