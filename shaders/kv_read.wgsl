// kv_read: unpacks the live rows of a layer's keys (or, in a second dispatch with VALUES, values) in table order.
// words, steps: the layer's rows · centre [G * hd], added to keys with CENTRED · book: its tables, see kv_row.rs
// out [.., G * hd], from row `to` on · bias [.., G] with BIASED, likewise, from region 3 of the tables · grid: one team per (row, KV head).

#import kv_row

struct Params { count: u32, to: u32, kv_heads: u32, capacity: u32, sets: u32 }

const BITS: u32 = #{BITS}u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> steps: array<u32>;
@group(0) @binding(3) var<storage, read> centre: array<f32>;
@group(0) @binding(4) var<storage, read> book: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
#ifdef BIASED
@group(0) @binding(6) var<storage, read_write> bias: array<f32>;
#endif

fn eight_values(at: u32, eight: u32) -> mat2x4<f32> {
    let start = at * words_per_row(BITS);
    if BITS == 16u {
        let first = start + 4u * eight;
        return halves(vec4(words[first], words[first + 1u], words[first + 2u], words[first + 3u]));
    }
    if BITS == 8u { return quads(words[start + 2u * eight], words[start + 2u * eight + 1u]); }
    if BITS == 4u { return nibbles(words[start + eight]); }
    if BITS == 2u { return pairs(words[start + eight / 2u], eight); }
    return threes(words[start + eight / 2u], words[start + HEAD_DIM / 16u + eight / 4u], eight);
}

@compute @workgroup_size(#{LANES})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let r = team_index(group.x, lane);
    let head = group.y;
    let member = team_member(lane);
    if r >= params.count { return; }

    let table = select(0u, head, params.sets > 1u) * 4u * params.capacity;
    let slot = min(book[table + r], params.capacity - 1u);
    let at = slot * params.kv_heads + head;
#ifdef BIASED
    if member == 0u {
        bias[(params.to + r) * params.kv_heads + head] = bitcast<f32>(book[table + 3u * params.capacity + slot]);
    }
#endif
    var step = 1.0;
#ifdef QUANTISED
    let both = unpack2x16float(steps[at]);
#ifdef VALUES
    step = both.y;
#else
    step = both.x;
#endif
#endif
    for (var eight = member; eight < HEAD_DIM / 8u; eight += TEAM) {
        let values = eight_values(at, eight);
        for (var i = 0u; i < 4u; i++) {
            row[8u * eight + i] = (values[0][i] - middle(BITS)) * step;
            row[8u * eight + 4u + i] = (values[1][i] - middle(BITS)) * step;
        }
    }
    sync();
#ifdef ROTATED
    hadamard(member);
#endif
    let start = ((params.to + r) * params.kv_heads + head) * HEAD_DIM;
    for (var i = member; i < HEAD_DIM; i += TEAM) {
#ifdef CENTRED
        out[start + i] = row[i] + centre[head * HEAD_DIM + i];
#else
        out[start + i] = row[i];
#endif
    }
}
