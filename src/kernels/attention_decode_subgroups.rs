//! Decode attention for GPUs with subgroups: a workgroup per part of the rows and few query heads of a KV head.

use super::kv_code::KvBits;
use super::kv_row::{Format, Heads};
use crate::gpu::{Shader, ShaderKey};

const SHADER: Shader = Shader {
    stem: "attention_decode_subgroups",
    text: include_str!("../../shaders/attention_decode_subgroups.wgsl"),
};

/// Lanes that subgroups need to have at least.
pub(super) const FEWEST_LANES: u32 = 8;

/// Query heads of a KV head that a workgroup serves at most, where a lane holds an eighth of each; more heads, or more
/// eighths, take more registers than leave room for several workgroups.
const MOST_HEADS: usize = 4;

/// Values of the output that teams of a workgroup leave in shared memory at once: 8 KiB.
const SHARED: usize = 2048;

/// How the work on some heads is shared out. `attention_decode_subgroups.wgsl` says what the names mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    lanes: u32,
    team: u32,
    each: u32,
    heads: u32,
    chunks: u32,
    rows: u32,
}

impl Shape {
    fn new(heads: Heads, subgroup_lanes: u32) -> Self {
        let eights = (heads.dim / 8) as u32;
        // A lane has an eighth of a row, as far as subgroups are wide enough.
        let team = eights.next_power_of_two().clamp(FEWEST_LANES, subgroup_lanes.min(32));
        let each = eights.div_ceil(team);
        let most = (MOST_HEADS / each as usize).max(1);
        let chunks = heads.group().div_ceil(most);
        let at_once = heads.group().div_ceil(chunks) as u32;
        Self {
            lanes: if at_once == 1 { 128 } else { 256 },
            team,
            each,
            heads: at_once,
            chunks: chunks as u32,
            // As many as keep the words of two turns in registers.
            rows: match (each, at_once) {
                (1, 1) => 8,
                (1, _) => 4,
                _ => 2,
            },
        }
    }

    /// Rows that a workgroup takes at a time.
    fn tile(self) -> u32 {
        self.lanes / self.team * self.rows
    }

    fn key(self, head_dim: usize) -> ShaderKey {
        let Self { lanes, team, each, heads, chunks, rows } = self;
        let scores = rows * heads;
        let halvings = scores.trailing_zeros().min(team.ilog2());
        let teams = lanes / team;
        let slots = (SHARED / (heads as usize * head_dim)).max(1) as u32;
        let key = ShaderKey::new(SHADER)
            .with("LANES", lanes)
            .with("TEAM", team)
            .with("EACH", each)
            .with("HEADS", heads)
            .with("CHUNKS", chunks)
            .with("ROWS", rows)
            .with("ROW_BITS", rows.ilog2())
            .with("HALVINGS", halvings)
            .with("SUMS", team.ilog2() - halvings)
            .with("LEFT", scores >> halvings)
            .with("SLOTS", teams.min(1 << slots.ilog2()));
        let left = ["LEFT_0", "LEFT_1", "LEFT_2", "LEFT_3", "LEFT_4"];
        let steps = left.into_iter().zip(1..=halvings);
        steps.fold(key, |key, (name, step)| key.with(name, scores >> step))
    }
}

pub(super) fn key(heads: Heads, subgroup_lanes: u32) -> ShaderKey {
    Shape::new(heads, subgroup_lanes).key(heads.dim)
}

pub(super) fn grid(heads: Heads, subgroup_lanes: u32, splits: u32) -> [u32; 2] {
    [splits, workgroups(heads, subgroup_lanes)]
}

/// Workgroups of a part of all heads.
pub(super) fn workgroups(heads: Heads, subgroup_lanes: u32) -> u32 {
    heads.kv as u32 * Shape::new(heads, subgroup_lanes).chunks
}

/// Rows that keep a workgroup busy once.
pub(super) fn tile(heads: Heads, subgroup_lanes: u32) -> usize {
    Shape::new(heads, subgroup_lanes).tile() as usize
}

/// Words of what `kv_raw` loads at once.
pub(super) fn element_words(bits: KvBits) -> u32 {
    super::attention_decode_groups::element_words(bits)
}

/// Every pair of widths on SmolLM2's heads, logits, merged rows and outputs; other heads, each with the smallest and the
/// largest rows; and heads that are wider than the team of a narrow subgroup.
pub fn variants() -> Vec<ShaderKey> {
    let of = |(query, kv, dim), lanes, bits| {
        let heads = Heads { query, kv, dim };
        let key = super::attention_keys::format_key(key(heads, lanes), dim, Format::both(bits));
        key.flag("WHOLE", true).flag("V_ROTATED", bits != KvBits::Sixteen)
    };
    // Subgroups of more than 32 lanes have teams of 32 at most.
    let wide =
        [(32, 8, 128), (40, 40, 128), (16, 8, 128), (14, 2, 64), (8, 1, 256), (4, 4, 256), (8, 1, 512)];
    let wide =
        wide.into_iter().flat_map(|heads| [KvBits::Four, KvBits::Sixteen].map(|bits| of(heads, 32, bits)));
    let others = [
        of((7, 1, 80), 32, KvBits::Sixteen),
        of((32, 8, 128), 8, KvBits::Four),
        of((40, 40, 256), 8, KvBits::Sixteen),
    ];
    let smollm2 = super::attention_keys::variants_of(|heads| key(heads, 32), true);
    let operands = super::attention_keys::operand_variants(|heads| key(heads, 32));
    smollm2.into_iter().chain(wide).chain(others).chain(operands).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_a_part_in_every_shape() {
        for lanes in [8, 16, 32, 64] {
            for (group, dim) in (1..20).flat_map(|g| (1..=64).map(move |e| (g, 8 * e))) {
                let shape = Shape::new(Heads { query: group, kv: 1, dim }, lanes);
                let Shape { team, each, heads, chunks, rows, .. } = shape;
                assert!(
                    team * each * 8 >= dim as u32 && team <= lanes && team.is_power_of_two(),
                    "{shape:?}"
                );
                assert!(heads * chunks >= group as u32 && heads * (chunks - 1) < group as u32, "{shape:?}");
                assert!(rows.is_power_of_two() && rows <= team, "{shape:?}");
            }
        }
    }
}
