//! What every kernel is told that multiplies by a part of a matrix (`shaders/shared/product.wgsl`).

use super::matrix::{Epilogue, Matrix};
use super::part::Part;
use crate::gpu::uniform;

uniform! {
    pub(super) struct Params {
        pub rows: u32,
        pub cols: u32,
        pub first: u32,
        pub stride: u32,
        pub count: u32,
        pub slice: u32,
        pub epsilon: f32,
    }
}

impl Params {
    /// The product of one of a matrix's parts with `count` rows, in its place among the matrix's outputs.
    pub fn new(matrix: &Matrix, part: &Part, count: usize, epilogue: Epilogue) -> Self {
        Self {
            rows: part.rows as u32,
            cols: matrix.cols() as u32,
            first: epilogue.outputs(part.first_row) as u32,
            stride: epilogue.outputs(matrix.rows()) as u32,
            count: count as u32,
            slice: 0,
            epsilon: 0.0,
        }
    }
}
