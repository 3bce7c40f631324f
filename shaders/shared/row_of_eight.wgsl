// row_of_eight: a row of HEAD_DIM values held by eight lanes of a subgroup, a quad of every 32 values each: value
// 32 * block + 4 * lane + i is component i of the lane's quad `block`. HEAD_DIM is a multiple of 32.

const BLOCKS_OF_ROW: u32 = HEAD_DIM / 32u;
// The Hadamard transform works in the largest power of two that divides the row; so many blocks of 32 are one.
const SPAN: u32 = (HEAD_DIM & (~HEAD_DIM + 1u)) / 32u;
alias Row = array<vec4<f32>, BLOCKS_OF_ROW>;

// The orthonormal Hadamard transform of 32 values, but for its factor.
fn hadamard_block(own: vec4<f32>, lane: u32) -> vec4<f32> {
    let pairs = vec4(own.x + own.y, own.x - own.y, own.z + own.w, own.z - own.w);
    var values = vec4(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
    for (var span = 1u; span < 8u; span = span << 1u) {
        let other = subgroupShuffleXor(values, span);
        values = select(values + other, other - values, (lane & span) != 0u);
    }
    return values;
}

// The transform that kv_row's `hadamard` makes.
fn hadamard_of_eight(row: Row, lane: u32) -> Row {
    var values = row;
    for (var b = 0u; b < BLOCKS_OF_ROW; b++) { values[b] = hadamard_block(values[b], lane); }
    for (var span = 1u; span < SPAN; span = span << 1u) {
        for (var b = 0u; b < BLOCKS_OF_ROW / 2u; b++) {
            let low = b / span * span * 2u + b % span;
            let a = values[low];
            let c = values[low + span];
            values[low] = a + c;
            values[low + span] = a - c;
        }
    }
    for (var b = 0u; b < BLOCKS_OF_ROW; b++) { values[b] *= inverseSqrt(32.0 * f32(SPAN)); }
    return values;
}
