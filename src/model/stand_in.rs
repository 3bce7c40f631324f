//! A model without its weights: what is recorded on it asks for the pipelines that the model itself will run.

use std::sync::Arc;

use super::load::{Source, Stack, assemble};
use super::{Config, Model};
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Tensor};
use crate::kernels::matrix::{Matrix, RowFormat};
use crate::kernels::part::Part;
use crate::text::Text;
use crate::weights::ModelFile;

/// Matrices of the formats that the model's will have, and of hardly any rows.
struct Hollow<'a> {
    gpu: &'a Gpu,
    rec: Recorder,
    file: &'a ModelFile,
    config: &'a Config,
    weights: Option<RowFormat>,
}

/// Rows of a matrix; a gated one has half of each kind.
const ROWS: usize = 2;

impl Model {
    /// A model of the file's shape and formats whose matrices have no weights and must never run.
    pub(crate) async fn stand_in(
        gpu: &Gpu,
        file: &ModelFile,
        config: &Config,
        weights: Option<RowFormat>,
    ) -> Result<Arc<Self>> {
        let mut source = Hollow { gpu, rec: Recorder::new(gpu), file, config, weights };
        assemble(gpu, config, Text::numbered(ROWS)?, &mut source).await.map(Arc::new)
    }
}

impl Source for Hollow<'_> {
    async fn matrix(&mut self, stack: &Stack) -> Result<Option<Matrix>> {
        if stack.is_tied(self.file) {
            return Ok(None);
        }
        let format = stack.format(self.file, self.weights);
        let tensor = |words: usize| self.gpu.tensor(Class::Scratch, "stand-in", words);
        let words = tensor(ROWS * format.words_per_row(stack.cols));
        let scales = tensor(ROWS * format.scales_per_row(stack.cols));
        Ok(Some(Matrix::new(stack.cols, vec![Part::new(&mut self.rec, 0, ROWS, format, words, scales)?])))
    }

    async fn vector(&mut self, name: &str) -> Result<Tensor<f32>> {
        Ok(self.gpu.tensor(Class::Scratch, name, self.config.width))
    }
}
