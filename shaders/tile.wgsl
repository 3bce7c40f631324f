// tile: rows of texels, to tiles of TILE rows: texel p of each of a tile's rows, then texel p + 1 of each, ...
// from [rows, width] · to [rows rounded up to tiles, width], where what is past the last row is left alone
// grid: lines of workgroups of 64, 32768 to a grid row; a lane for each texel.
// A texel is four words, or one with SCALARS; with TEXTURES `to` is a texture, 1024 texels to a row.

struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> params: Params;
#ifdef SCALARS
alias Texel = u32;
#else
alias Texel = vec4<u32>;
#endif
@group(0) @binding(1) var<storage, read> source: array<Texel>;
#ifdef TEXTURES
#ifdef SCALARS
@group(0) @binding(2) var tiles: texture_storage_2d<r32uint, write>;
fn put(at: u32, texel: Texel) { textureStore(tiles, vec2<u32>(at % 1024u, at / 1024u), vec4<u32>(texel)); }
#else
@group(0) @binding(2) var tiles: texture_storage_2d<rgba32uint, write>;
fn put(at: u32, texel: Texel) { textureStore(tiles, vec2<u32>(at % 1024u, at / 1024u), texel); }
#endif
#else
@group(0) @binding(2) var<storage, read_write> tiles: array<Texel>;
fn put(at: u32, texel: Texel) { tiles[at] = texel; }
#endif

const TILE = #{TILE}u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * 32768u + group.x) * 64u + lane;
    let row = i / params.width;
    if row >= params.rows { return; }
    put((row / TILE * params.width + i % params.width) * TILE + row % TILE, source[i]);
}
