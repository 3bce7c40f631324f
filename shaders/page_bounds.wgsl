// page_bounds: the smallest and the largest value of each dimension of the keys of each page, as they are stored.
// book, k_words, v_words, steps: packed rows · out [page][KV head][hd]: two halves, the smallest in the low bits
// grid (pages, KV heads), 8 lanes; a lane takes every eighth eight of a head.

#import kv_eight

struct Params {
    count: u32,
    capacity: u32,
    sets: u32,
    kv_heads: u32,
    first_page: u32,
}

const HEAD_DIM: u32 = #{HEAD_DIM}u;
const PAGE: u32 = #{PAGE}u;
const LARGEST: f32 = 65504.0;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> book: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let table = select(0u, head, params.sets > 1u) * 4u * params.capacity;
    let first = group.x * PAGE;
    let end = min(first + PAGE, params.count);
    for (var eight = lane; eight < EIGHTS; eight += 8u) {
        var low = mat2x4(vec4(LARGEST), vec4(LARGEST));
        var high = mat2x4(vec4(-LARGEST), vec4(-LARGEST));
        for (var r = first; r < end; r++) {
            let at = min(book[table + r], params.capacity - 1u) * params.kv_heads + head;
            let k = k_eight(0u, at, eight);
            let step = row_steps(at).x;
            let near = clamp((k[0] - K_MIDDLE) * step, vec4(-LARGEST), vec4(LARGEST));
            let far = clamp((k[1] - K_MIDDLE) * step, vec4(-LARGEST), vec4(LARGEST));
            low = mat2x4(min(low[0], near), min(low[1], far));
            high = mat2x4(max(high[0], near), max(high[1], far));
        }
        let to = ((params.first_page + group.x) * params.kv_heads + head) * HEAD_DIM + eight * 8u;
        for (var i = 0u; i < 8u; i++) {
            out[to + i] = pack2x16float(vec2(low[i / 4u][i % 4u], high[i / 4u][i % 4u]));
        }
    }
}
