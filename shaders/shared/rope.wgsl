// rope: the rotation of one pair of a head row at one position, PAIRS pairs rotated.
// Rotated pairs are (2i, 2i+1) with INTERLEAVED, else (i, i + PAIRS); pairs from PAIRS on are neighbours.

const PAIRS: u32 = #{PAIRS}u;

fn pair_dims(pair: u32) -> vec2<u32> {
#ifdef INTERLEAVED
    return vec2(2u * pair, 2u * pair + 1u);
#else
    if pair < PAIRS { return vec2(pair, pair + PAIRS); }
    return vec2(2u * pair, 2u * pair + 1u);
#endif
}

// (cos, sin) of an angle. Devices may compute both badly outside one turn, so whole turns are taken off first,
// in two steps: 6.28125 has eight bits, and its multiple is exact.
fn turn(angle: f32) -> vec2<f32> {
    let turns = round(angle * 0.15915494309189535);
    let rest = (angle - turns * 6.28125) - turns * 0.0019353071795864769;
    return vec2(cos(rest), sin(rest));
}

fn rotate(values: vec2<f32>, by: vec2<f32>) -> vec2<f32> {
    return vec2(values.x * by.x - values.y * by.y, values.x * by.y + values.y * by.x);
}
