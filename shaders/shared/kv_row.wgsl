// kv_row: one KV row of HEAD_DIM values, held by a team, packed to and from rows of 16, 8, 4, 3 or 2 bits.
// The team is one lane with a private array, or with TEAMS a workgroup with a shared one; its members stride
// over the row, and every step that reads what other members wrote comes after `sync`.
// kv_code.rs draws the words and defines the grid.

#import kv_codes

const HEAD_DIM: u32 = #{HEAD_DIM}u;
// The largest power of two that divides the row: the Hadamard transform works in blocks of it.
const BLOCK: u32 = HEAD_DIM & (~HEAD_DIM + 1u);
const LANES: u32 = #{LANES}u;

#ifdef TEAMS
const TEAM: u32 = LANES;
var<workgroup> row: array<f32, HEAD_DIM>;
fn sync() { workgroupBarrier(); }
fn team_index(group: u32, lane: u32) -> u32 { return group; }
fn team_member(lane: u32) -> u32 { return lane; }
#else
const TEAM: u32 = 1u;
var<private> row: array<f32, HEAD_DIM>;
fn sync() {}
fn team_index(group: u32, lane: u32) -> u32 { return group * LANES + lane; }
fn team_member(lane: u32) -> u32 { return 0u; }
#endif

fn words_per_row(bits: u32) -> u32 { return HEAD_DIM * bits / 32u; }

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

fn code(bits: u32, value: f32, step: f32) -> u32 {
    let below = f32(1u << (bits - 1u));
    return u32(clamp(floor(value / step) + below, 0.0, f32((1u << bits) - 1u)));
}

// x: the step that codes are found with. y: the one that fits those codes best, as the half that is stored.
// Every member walks the whole row: that costs less than meeting twice.
fn find_steps(bits: u32) -> vec2<f32> {
    var square = 0.0;
    var largest = 0.0;
    for (var i = 0u; i < HEAD_DIM; i++) {
        square += row[i] * row[i];
        largest = max(largest, abs(row[i]));
    }
    let rms = sqrt(square / f32(HEAD_DIM));
    let narrow = select(select(0.9957, 0.586, bits == 3u), 0.3352, bits == 4u) * rms;
    let first = clamp(select(narrow, largest / 127.5, bits >= 8u), 6.103515625e-5, 65504.0);
    var along = 0.0;
    var codes_square = 0.0;
    for (var i = 0u; i < HEAD_DIM; i++) {
        let on_grid = f32(code(bits, row[i], first)) - middle(bits);
        along += row[i] * on_grid;
        codes_square += on_grid * on_grid;
    }
    let best = clamp(along / codes_square, 6.103515625e-5, 65504.0);
    return vec2(first, unpack2x16float(pack2x16float(vec2(best, 0.0))).x);
}

// The codes of four neighbouring values, a byte each.
fn quad(bits: u32, start: u32, step: f32) -> u32 {
    return pack4xU8(vec4(code(bits, row[start], step), code(bits, row[start + 1u], step),
                         code(bits, row[start + 2u], step), code(bits, row[start + 3u], step)));
}

// One word of the packed row.
fn pack_word(bits: u32, word: u32, step: f32) -> u32 {
    if bits == 16u { return pack2x16float(vec2(row[2u * word], row[2u * word + 1u])); }
    // Three bits are a plane of two, then a plane of one.
    let high = bits == 3u && word >= HEAD_DIM / 16u;
    let width = select(select(bits, 2u, bits == 3u), 1u, high);
    let start = select(word, word - HEAD_DIM / 16u, high) * (32u / width);
    let mask = ((1u << width) - 1u) * 0x01010101u;
    var packed = 0u;
    for (var j = 0u; j < 8u / width; j++) {
        let codes = quad(bits, start + 4u * j, step) >> select(0u, 2u, high);
        packed |= (codes & mask) << (j * width);
    }
    return packed;
}
