// operand: activations as products with packed weights read them, in groups of 32 values. A column is codes, then steps:
//   planes   code = 256 * high + low, both signed bytes, value = step * code; with one plane code = high, of a larger step.
//            [plane, the high one first][half of the group][group] vec4<u32>: 16 bytes of the half
//   F32      [group][32] the values themselves
//   steps    [group] vec4<f32>: (step, step * sum of the codes, sum of squares of what was given, 0)
// The importing shader binds `to_x: array<u32>`.

#ifdef TO_F32
const TO_QUADS = 8u;
#else
#ifdef TO_TWO_PLANES
const TO_QUADS = 4u;
const MOST = 32512.0;
#else
const TO_QUADS = 2u;
const MOST = 127.0;
#endif
#endif

// Stores a group of which neighbouring lanes, eight from a multiple of eight on, hold a quad each; `squares` are those of
// this lane's quad. Every one of the eight lanes calls it.
fn store_group(column: u32, groups: u32, g: u32, eighth: u32, quad: vec4<f32>, squares: f32) {
    let begin = column * (TO_QUADS + 1u) * groups;
    let square = sum_of_eight(squares);
#ifdef TO_F32
    let words = bitcast<vec4<u32>>(quad);
    let at = (begin + g * 8u + eighth) * 4u;
    let ends = vec4<f32>(1.0, 0.0, square, 0.0);
#repeat i 4
    to_x[at + #{i}u] = words[#{i}];
#end
#else
    let size = abs(quad);
    var top = max(max(size.x, size.y), max(size.z, size.w));
    for (var span = 1u; span < 8u; span *= 2u) { top = max(top, subgroupShuffleXor(top, span)); }
    let step = max(top, 1e-30) / MOST;
    let code = round(quad / step);
    let ends = vec4<f32>(step, step * sum_of_eight((code.x + code.y) + (code.z + code.w)), square, 0.0);
    let codes = vec4<i32>(code);
    let at = (begin + eighth / 4u * groups + g) * 4u + eighth % 4u;
#ifdef TO_TWO_PLANES
    let high = (codes + 128) >> vec4<u32>(8u);
    to_x[at] = pack4xI8(high);
    to_x[at + 8u * groups] = pack4xI8(codes - 256 * high);
#else
    to_x[at] = pack4xI8(codes);
#endif
#endif
    if eighth == 0u {
        let to_ends = (begin + TO_QUADS * groups + g) * 4u;
        let bits = bitcast<vec4<u32>>(ends);
#repeat i 4
        to_x[to_ends + #{i}u] = bits[#{i}];
#end
    }
}

fn sum_of_eight(value: f32) -> f32 {
    var sum = value;
    for (var span = 1u; span < 8u; span *= 2u) { sum += subgroupShuffleXor(sum, span); }
    return sum;
}
