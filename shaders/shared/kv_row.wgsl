// kv_row: one KV row of HEAD_DIM values, held by a team, packed to and from BITS of 16, 8 or 4.
// The team is one lane with a private array, or with TEAMS a workgroup with a shared one; its members stride
// over the row, and every step that reads what other members wrote comes after `sync`.
// Words: f16 pairs, or per group of 32 unsigned codes with (scale, minimum) as an f16 pair, and the
// values of a 4-bit word in the order low nibble of bytes 0..4, high nibble of bytes 0..4.

const HEAD_DIM: u32 = #{HEAD_DIM}u;
// The largest power of two that divides the row: the Hadamard transform works in blocks of it.
const BLOCK: u32 = HEAD_DIM & (~HEAD_DIM + 1u);
const LANES: u32 = #{LANES}u;

#ifdef TEAMS
const TEAM: u32 = LANES;
var<workgroup> row: array<f32, HEAD_DIM>;
var<workgroup> scales: array<u32, HEAD_DIM / 32u + 1u>;
fn sync() { workgroupBarrier(); }
fn team_index(group: u32, lane: u32) -> u32 { return group; }
fn team_member(lane: u32) -> u32 { return lane; }
#else
const TEAM: u32 = 1u;
var<private> row: array<f32, HEAD_DIM>;
var<private> scales: array<u32, HEAD_DIM / 32u + 1u>;
fn sync() {}
fn team_index(group: u32, lane: u32) -> u32 { return group * LANES + lane; }
fn team_member(lane: u32) -> u32 { return 0u; }
#endif

fn words_per_row(bits: u32) -> u32 { return HEAD_DIM * bits / 32u; }

fn scales_per_row(bits: u32) -> u32 { return select(HEAD_DIM / 32u, 0u, bits == 16u); }

// The orthonormal Hadamard transform, its own inverse.
fn hadamard(member: u32) {
    for (var span = 1u; span < BLOCK; span = span << 1u) {
        for (var i = member; i < HEAD_DIM / 2u; i += TEAM) {
            let low = i / span * span * 2u + i % span;
            let a = row[low];
            let b = row[low + span];
            row[low] = a + b;
            row[low + span] = a - b;
        }
        sync();
    }
    for (var i = member; i < HEAD_DIM; i += TEAM) { row[i] *= inverseSqrt(f32(BLOCK)); }
    sync();
}

// Finds the (scale, minimum) of the row's groups, which `pack_word` needs.
// A scale below the smallest normal half could be flushed to zero.
fn find_scales(bits: u32, member: u32) {
    for (var group = member; group < scales_per_row(bits); group += TEAM) {
        var low = row[group * 32u];
        var high = low;
        for (var i = 1u; i < 32u; i++) {
            low = min(low, row[group * 32u + i]);
            high = max(high, row[group * 32u + i]);
        }
        let step = max((high - low) / f32((1u << bits) - 1u), 6.103515625e-5);
        scales[group] = pack2x16float(vec2(step, low));
    }
    sync();
}

fn codes(bits: u32, first: u32, scale: vec2<f32>) -> u32 {
    let values = vec4(row[first], row[first + 1u], row[first + 2u], row[first + 3u]);
    let code = clamp(round((values - scale.y) / scale.x), vec4(0.0), vec4(f32((1u << bits) - 1u)));
    return pack4xU8(vec4<u32>(code));
}

// One word of the packed row.
fn pack_word(bits: u32, word: u32) -> u32 {
    if bits == 16u { return pack2x16float(vec2(row[2u * word], row[2u * word + 1u])); }
    let scale = unpack2x16float(scales[word / bits]);
    if bits == 8u { return codes(bits, 4u * word, scale); }
    return codes(bits, 8u * word, scale) | (codes(bits, 8u * word + 4u, scale) << 4u);
}

fn put(first: u32, values: vec4<f32>) {
    row[first] = values.x;
    row[first + 1u] = values.y;
    row[first + 2u] = values.z;
    row[first + 3u] = values.w;
}

// The inverse of `pack_word`, but for the transform.
fn unpack_word(bits: u32, word: u32, packed: u32, scale: u32) {
    let range = unpack2x16float(scale);
    if bits == 16u {
        let pair = unpack2x16float(packed);
        row[2u * word] = pair.x;
        row[2u * word + 1u] = pair.y;
    } else if bits == 8u {
        put(4u * word, vec4<f32>(unpack4xU8(packed)) * range.x + range.y);
    } else {
        put(8u * word, vec4<f32>(unpack4xU8(packed & 0x0F0F0F0Fu)) * range.x + range.y);
        put(8u * word + 4u, vec4<f32>(unpack4xU8((packed >> 4u) & 0x0F0F0F0Fu)) * range.x + range.y);
    }
}
