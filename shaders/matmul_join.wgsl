// matmul_join: ends a product whose columns were multiplied in slices: adds the slices in their order.
// partial [SLICES, count, rows] f32 · out [count, stride] from column `first` on: f32, or with HALVES halves, two to a word
// grid (outputs / 128, count); a lane has an output, or with HALVES two neighbours. With SWIGLU the first half of the rows are
// gates and the second their ups.

struct Params { rows: u32, first: u32, stride: u32, count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
#ifdef HALVES
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif

fn total(at: u32) -> f32 {
    let plane = params.count * params.rows;
#repeat i #{SLICES}
    let part_#{i} = partial[at + #{i}u * plane];
#end
    var sum = 0.0;
#repeat i #{SLICES}
    sum += part_#{i};
#end
    return sum;
}

fn output(row: u32, column: u32) -> f32 {
    let at = row * params.rows + column;
#ifdef SWIGLU
    let gate = total(at);
    return gate / (1.0 + exp(-gate)) * total(at + params.rows / 2u);
#else
    return total(at);
#endif
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
#ifdef SWIGLU
    let outputs = params.rows / 2u;
#else
    let outputs = params.rows;
#endif
#ifdef HALVES
    let column = 2u * (group.x * 128u + lane);
    if column < outputs {
        let pair = vec2<f32>(output(row, column), output(row, column + 1u));
        out[(row * params.stride + params.first + column) / 2u] =
            pack2x16float(clamp(pair, vec2<f32>(-65504.0), vec2<f32>(65504.0)));
    }
#else
    let column = group.x * 128u + lane;
    if column < outputs {
        let at = row * params.stride + params.first + column;
#ifdef ADD
        out[at] += output(row, column);
#else
        out[at] = output(row, column);
#endif
    }
#endif
}
