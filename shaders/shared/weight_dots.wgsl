// weight_dots: a unit of a packed weight row (weight_row.wgsl draws the words) times the same values of an operand.
// Words of 16 bytes: a unit is one of them with Q4 and F16, two with Q8, so 32, 8 and 32 values.
// x: an operand (operand.wgsl) in vec4<u32>, a column of which is QUADS of them a group and then one of steps.
// Q4, Q8: a weight is scale * q + minimum, a value of x is step * code, so a group's product is
// scale * step * sum(q * code) + minimum * step * sum(code), and both sums are of integers.

const UNITS = #{UNITS}u;
const GROUPS = #{GROUPS}u;

#ifdef F16
const QUADS = 8u;
struct Unit { words: vec4<u32> }

fn unit(at: u32) -> Unit { return Unit(words[at]); }

fn product(w: Unit, column: u32, i: u32, step: vec4<f32>, sum: f32) -> f32 {
    let at = column * (QUADS + 1u) * GROUPS + 2u * i;
    let low = bitcast<vec4<f32>>(x[at]);
    let high = bitcast<vec4<f32>>(x[at + 1u]);
    let a = vec4<f32>(unpack2x16float(w.words.x), unpack2x16float(w.words.y));
    let b = vec4<f32>(unpack2x16float(w.words.z), unpack2x16float(w.words.w));
    let s = fma(a, low, b * high);
    return sum + ((s.x + s.y) + (s.z + s.w));
}
#else
#ifdef TWO_PLANES
const QUADS = 4u;
#else
const QUADS = 2u;
#endif

#ifdef Q8
struct Unit { low: vec4<u32>, high: vec4<u32>, scale: u32 }

fn unit(at: u32) -> Unit { return Unit(words[2u * at], words[2u * at + 1u], scales[at]); }

// Bytes count from 128 here, so that they are signed.
fn dots(w: Unit, a: vec4<u32>, b: vec4<u32>) -> i32 {
    let low = w.low ^ vec4<u32>(0x80808080u);
    let high = w.high ^ vec4<u32>(0x80808080u);
    return dot4I8Packed(low.x, a.x) + dot4I8Packed(low.y, a.y) + dot4I8Packed(low.z, a.z) + dot4I8Packed(low.w, a.w)
        + dot4I8Packed(high.x, b.x) + dot4I8Packed(high.y, b.y) + dot4I8Packed(high.z, b.z) + dot4I8Packed(high.w, b.w);
}
const MIDDLE = 128.0;
#else
struct Unit { words: vec4<u32>, scale: u32 }

fn unit(at: u32) -> Unit { return Unit(words[at], scales[at]); }

fn dots(w: Unit, a: vec4<u32>, b: vec4<u32>) -> i32 {
    let low = w.words & vec4<u32>(0x0F0F0F0Fu);
    let high = (w.words >> vec4<u32>(4u)) & vec4<u32>(0x0F0F0F0Fu);
    return dot4I8Packed(low.x, a.x) + dot4I8Packed(high.x, a.y) + dot4I8Packed(low.y, a.z) + dot4I8Packed(high.y, a.w)
        + dot4I8Packed(low.z, b.x) + dot4I8Packed(high.z, b.y) + dot4I8Packed(low.w, b.z) + dot4I8Packed(high.w, b.w);
}
const MIDDLE = 0.0;
#endif

fn product(w: Unit, column: u32, g: u32, step: vec4<f32>, sum: f32) -> f32 {
    let at = column * (QUADS + 1u) * GROUPS + g;
    var total = dots(w, x[at], x[at + GROUPS]);
#ifdef TWO_PLANES
    total = 256 * total + dots(w, x[at + 2u * GROUPS], x[at + 3u * GROUPS]);
#endif
    let scale = unpack2x16float(w.scale);
    return fma(scale.x * step.x, f32(total), fma(fma(scale.x, MIDDLE, scale.y), step.y, sum));
}
#endif

// (step, step * sum of the codes, sum of squares, 0) of a group.
fn step_of(column: u32, g: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(x[(column * (QUADS + 1u) + QUADS) * GROUPS + g]);
}
