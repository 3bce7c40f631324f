//! The inside of every layer against PyTorch, so that a wrong layer is known by its number.

#[path = "../../tests/it/common/files.rs"]
#[expect(dead_code, reason = "the tests of the library use the rest")]
mod files;

use std::path::Path;

use super::{Block, DecodeScratch, Model, PrefillScratch, tally};
use crate::gpu::{Recorder, Tensor};
use crate::kernels::kv_row::Heads;
use crate::kv::policy::{Full, Policy};
use crate::kv::{Cache, KvOptions, Memory, TierRows};
use crate::{AdapterChoice, Gpu, LoadOptions, Result};
use files::{Arrays, golden_arrays, golden_json, max_error, model_file, u32s};

/// Share of a row's largest value that it may be off by: f32 sums in another order. Measured: 3.8e-6.
const TOLERANCE: f32 = 1e-5;

fn check(golden: &Arrays, name: &str, found: &[f32]) {
    let wanted = golden.f32s(name);
    let size = wanted.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    let error = max_error(found, &wanted);
    assert!(error <= TOLERANCE * size, "{name} is off by {error}, at values up to {size}");
}

/// `[row][head][dim]` as PyTorch has it, `[head][row][dim]`; `pairs` brings the neighbours that a GGUF's rotation
/// pairs half a head apart.
fn by_head(x: &[f32], heads: usize, dim: usize, pairs: bool) -> Vec<f32> {
    let rows = x.len() / (heads * dim);
    let place = |i: usize| if pairs { i % (dim / 2) * 2 + i / (dim / 2) } else { i };
    let of_row = |head: usize, row: usize| (0..dim).map(move |i| x[(row * heads + head) * dim + place(i)]);
    (0..heads).flat_map(|head| (0..rows).flat_map(move |row| of_row(head, row))).collect()
}

async fn probe(path: &Path, ids: &[u32], golden: &Arrays) -> Result<()> {
    let gpu = Gpu::open(&AdapterChoice::Best).await?;
    let model = Model::load(&gpu, path, &LoadOptions::default(), |_| ()).await?;
    let (config, rows) = (model.config(), ids.len());
    let Heads { query, kv, dim } = config.heads;
    let d = DecodeScratch::new(&gpu, config, 1, 0);
    let mut rec = Recorder::new(&gpu);
    let mut cache = Cache::new(
        &Memory::Own(gpu.clone()),
        config.heads,
        &KvOptions::full(),
        &vec![TierRows::default(); config.layers],
    )?;
    cache.reserve(&mut rec, &vec![TierRows::in_main(rows); config.layers]);
    let mut block = Block::new(Full.plan(rows, config.layers)?, 0, false, true, 1);
    let s = PrefillScratch::new(&gpu, config, rows, 0, tally::most(&block.plan, false));
    model.begin_block(&mut rec, &s, &block, ids)?;
    for layer in 0..config.layers {
        model.prefill_layer(&mut rec, &s, &d, &mut cache, &mut block)?;
        let hidden = rec.read(&s.hidden, (rows - 1) * config.width, config.width);
        let mut read = |tensor: &Tensor<f32>, heads: usize| rec.read(tensor, 0, rows * heads * dim);
        let (q, k, v) = (read(&s.q, query), read(&s.k, kv), read(&s.v, kv));
        let attended = read(&s.attended, query);
        rec.submit();
        let name = |part: &str| format!("l{layer}.{part}");
        check(golden, &name("hidden_last"), &hidden.await?);
        if matches!(layer, 0 | 15) {
            check(golden, &name("q"), &by_head(&q.await?, query, dim, true));
            check(golden, &name("k"), &by_head(&k.await?, kv, dim, true));
            check(golden, &name("v"), &by_head(&v.await?, kv, dim, false));
            check(golden, &name("attn_out"), &attended.await?);
        }
    }
    assert_eq!(cache.rows_per_layer(), vec![rows; config.layers]);
    Ok(())
}

#[test]
fn every_layer_is_golden() {
    let (Some(path), Some(golden), Some(prompts)) =
        (model_file(), golden_arrays("layer_probes_p1.safetensors"), golden_json("prompts_greedy.json"))
    else {
        return;
    };
    pollster::block_on(probe(&path, &u32s(&prompts["prompts"][1]["ids"]), &golden)).expect("the prompt runs");
}
