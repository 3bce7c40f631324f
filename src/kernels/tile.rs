//! Rows of a weight matrix, put into the tiles that software adapters read: see [`super::part`].

use super::check::{Check, Noise};
use super::grid::lines;
use super::part::Words;
use crate::Result;
use crate::gpu::{Class, Gpu, Recorder, Shader, ShaderKey, Tensor, Texel, uniform};

const SHADER: Shader = Shader { stem: "tile", text: include_str!("../../shaders/tile.wgsl") };

/// Rows of a tile; `shaders/shared/weight_pack.wgsl` says the same.
pub const TILE: usize = 32;

uniform! {
    struct Params {
        rows: u32,
        width: u32,
    }
}

fn key(texel: Texel, textures: bool) -> ShaderKey {
    let key = ShaderKey::new(SHADER).with("TILE", TILE as u32);
    key.flag("SCALARS", texel == Texel::One).flag("TEXTURES", textures)
}

/// Every shader variant of this kernel.
pub fn variants() -> Vec<ShaderKey> {
    [Texel::One, Texel::Four].into_iter().flat_map(|texel| [false, true].map(|on| key(texel, on))).collect()
}

/// Records that the `rows` rows of `from` go to tiles; `to` has room for whole ones.
pub fn tile(rec: &mut Recorder, from: &Tensor<u32>, rows: usize, texel: Texel, to: &Words) -> Result<()> {
    let texels = from.len() / texel.words();
    let kernel = rec.gpu().kernel(&key(texel, to.in_texture()))?;
    let params = Params { rows: rows as u32, width: (texels / rows.max(1)) as u32 };
    rec.dispatch(&kernel, &params, &[from.bind(), to.bind()], lines(texels.div_ceil(64)))
}

/// The CPU twin; past the last row there are zeros.
pub fn twin(from: &[u32], rows: usize, texel: Texel) -> Vec<u32> {
    let width = from.len() / rows / texel.words();
    let mut to = vec![0; rows.next_multiple_of(TILE) * width * texel.words()];
    for (i, texel) in from.chunks_exact(texel.words()).enumerate() {
        let (row, column) = (i / width, i % width);
        let at = (row / TILE * width + column) * TILE + row % TILE;
        to[at * texel.len()..][..texel.len()].copy_from_slice(texel);
    }
    to
}

async fn check(gpu: &Gpu, rows: usize, width: usize, texel: Texel) -> Result<Check> {
    let mut noise = Noise::new(2);
    let from: Vec<u32> = (0..rows * width * texel.words()).map(|_| noise.below(u32::MAX)).collect();
    let want = twin(&from, rows, texel);
    let source = gpu.tensor_with(Class::Scratch, "source", &from);
    let to = gpu.tensor(Class::Scratch, "tiles", want.len());
    let mut rec = Recorder::new(gpu);
    tile(&mut rec, &source, rows, texel, &Words::Buffer(to.clone()))?;
    let got = rec.read(&to, 0, want.len());
    rec.submit();
    Ok(Check::equal(format!("tile {texel:?} {rows}x{width}"), &got.await?, &want))
}

/// Tiles in textures are checked by the kernels that read them: `embed`, `matvec` and `matmul`.
pub(super) async fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    Ok(vec![check(gpu, 67, 5, Texel::Four).await?, check(gpu, 33, 18, Texel::One).await?])
}

#[cfg(test)]
mod tests {
    use super::super::check::testing::{assert_passed, gpu};
    use super::*;

    #[test]
    fn agrees_with_its_twin() {
        assert_passed(pollster::block_on(checks(&gpu())));
    }

    #[test]
    fn rows_of_a_tile_take_turns() {
        let rows: Vec<u32> = (0..2 * 34).collect();
        let tiles = twin(&rows, 34, Texel::One);
        assert_eq!((tiles[..3].to_vec(), tiles[32], tiles[64], tiles[65]), (vec![0, 2, 4], 1, 64, 66));
        assert_eq!(tiles.len(), 128);
    }
}
