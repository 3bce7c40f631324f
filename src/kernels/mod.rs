//! The kernels: one file each, with the same stem as its shader under `shaders/`.
//!
//! A kernel's file holds its bindings, its grid, its variants and its **CPU twin**, a plain scalar function that
//! defines what the kernel computes. [`check::all`] runs every kernel against its twin on a device; the tests do
//! the same over drawn shapes. Kernels know matrices, rows and heads, but no model.

pub mod accumulate;
pub mod activations;
pub mod attention_decode;
pub mod attention_decode_groups;
pub mod attention_decode_lanes;
pub mod attention_decode_subgroups;
mod attention_keys;
pub mod attention_merge;
pub mod attention_parts;
pub mod attention_prefill;
pub mod attention_prefill_groups;
pub mod attention_prefill_lanes;
pub mod attention_prefill_matrix;
pub mod centre;
pub mod check;
pub mod combine;
pub mod copy;
pub mod embed;
pub mod expected_logits;
pub mod expected_score;
pub mod fill;
pub mod fold;
#[cfg(test)]
mod fragments;
pub mod gather;
mod grid;
pub(crate) mod group;
mod jobs;
pub mod kv_code;
pub mod kv_copy;
pub mod kv_memory;
pub mod kv_read;
pub mod kv_row;
mod kv_sample;
pub mod kv_write;
pub mod matmul;
mod matmul_check;
pub mod matmul_few;
mod matmul_groups;
mod matmul_join;
mod matmul_lanes;
pub mod matmul_matrix;
pub mod matrix;
pub mod matvec;
pub mod matvec_dots;
mod matvec_groups;
mod matvec_lanes;
pub mod moments;
pub mod multiply;
pub mod multiply_matrix;
pub mod nearest;
pub mod nll;
pub mod observe;
pub mod operand;
pub mod page_bounds;
pub mod page_score;
pub mod part;
pub mod pool;
mod product;
pub mod quantise;
pub mod read;
pub mod rms_norm;
pub mod rope_ahead;
pub mod rope_split;
pub mod rope_write;
pub mod sample;
pub mod score;
mod score_groups;
mod score_lanes;
pub mod seed;
pub mod select;
mod team;
pub mod thin;
pub mod tile;
pub mod to_halves;
pub mod tune;
pub mod units;

use crate::gpu::ShaderKey;

/// One variant at least of every way in which a shader can be assembled, for validation without a device.
pub fn variants() -> Vec<ShaderKey> {
    let kernels: [fn() -> Vec<ShaderKey>; 45] = [
        accumulate::variants,
        attention_decode_groups::variants,
        attention_decode_lanes::variants,
        attention_decode_subgroups::variants,
        attention_merge::variants,
        attention_prefill_groups::variants,
        attention_prefill_lanes::variants,
        attention_prefill_matrix::variants,
        centre::variants,
        combine::variants,
        copy::variants,
        embed::variants,
        expected_logits::variants,
        expected_score::variants,
        fill::variants,
        fold::variants,
        gather::variants,
        kv_copy::variants,
        kv_read::variants,
        kv_write::variants,
        matmul::variants,
        matvec::variants,
        matvec_dots::variants,
        moments::variants,
        multiply::variants,
        multiply_matrix::variants,
        nearest::variants,
        nll::variants,
        observe::variants,
        page_bounds::variants,
        page_score::variants,
        pool::variants,
        quantise::variants,
        read::variants,
        rms_norm::variants,
        rope_ahead::variants,
        rope_split::variants,
        rope_write::variants,
        sample::variants,
        score::variants,
        seed::variants,
        select::variants,
        thin::variants,
        tile::variants,
        to_halves::variants,
    ];
    kernels.into_iter().flat_map(|variants| variants()).collect()
}
