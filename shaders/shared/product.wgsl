// product: what a product of a part of a matrix, [rows, cols], with `count` rows of x is told. Its outputs go to rows of
// `stride` values, from column `first` on. On matrix units a slice of the columns is `slice` steps; kernels that normalise
// x add `epsilon` to its mean square.
struct Params {
    rows: u32,
    cols: u32,
    first: u32,
    stride: u32,
    count: u32,
    slice: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
