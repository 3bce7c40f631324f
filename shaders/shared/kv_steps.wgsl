// kv_steps: what finishes sums over the codes of packed K and V rows: the middle of the grid, and each row's steps.
#import kv_codes

const K_MIDDLE: f32 = 0.5 * f32((1u << (#{K_BITS}u % 16u)) - 1u);
const V_MIDDLE: f32 = 0.5 * f32((1u << (#{V_BITS}u % 16u)) - 1u);

@group(0) @binding(4) var<storage, read> steps: array<u32>;

// The steps of a row of keys and of its row of values; halves have none, and other rows leave theirs unsaid.
fn row_steps(at: u32) -> vec2<f32> {
#ifdef STEPS
    let packed = unpack2x16float(steps[at]);
    return vec2(select(packed.x, 1.0, #{K_BITS}u == 16u), select(packed.y, 1.0, #{V_BITS}u == 16u));
#else
    return vec2(1.0);
#endif
}
