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

// (cos, sin) of an angle. WebGPU asks devices for three digits of either, so they are computed here: whole turns and
// then quarters are taken off, each in two steps (6.28125 and 1.5703125 have eight bits, and their multiples are
// exact), and the rest, an eighth of a turn at most, goes through the polynomials of Cephes.
fn turn(angle: f32) -> vec2<f32> {
    let turns = round(angle * 0.15915494309189535);
    let part = (angle - turns * 6.28125) - turns * 0.0019353071795864769;
    let quarters = round(part * 0.6366197723675814);
    let x = (part - quarters * 1.5703125) - quarters * 4.8382679489661923e-4;
    let y = x * x;
    let sine = x + x * y * (-1.6666654611e-1 + y * (8.3321608736e-3 - y * 1.9515295891e-4));
    let cosine = 1.0 - 0.5 * y
        + y * y * (4.166664568298827e-2 + y * (-1.388731625493765e-3 + y * 2.443315711809948e-5));
    let quarter = i32(quarters) & 3;
    let both = select(vec2(cosine, sine), vec2(sine, cosine), (quarter & 1) == 1);
    return select(both, -both, vec2(quarter == 1 || quarter == 2, quarter >= 2));
}

fn rotate(values: vec2<f32>, by: vec2<f32>) -> vec2<f32> {
    return vec2(values.x * by.x - values.y * by.y, values.x * by.y + values.y * by.x);
}
