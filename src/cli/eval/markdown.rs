//! The summary as Markdown.

use super::needles::{Kind, Mode};
use super::split::Split;
use super::summary::Summary;

/// The whole document.
pub fn document(summary: &Summary) -> String {
    let mut out = format!(
        "# KV cache policies on {}\n\n{} on {}; texts: {}.\n\n\
         A window is {} tokens that the policy compresses and {} that are scored. `±` is the standard error of the mean \
         over windows, in brackets the worst window. Needles: trials whose five digits were right, in brackets those \
         whose whole answer was, where the full cache finds the digits both aware and agnostic; the haystack has {} \
         tokens.\n",
        summary.model,
        summary.program,
        summary.adapter,
        summary.texts.join(", "),
        summary.sizes.prefix,
        summary.sizes.continuation,
        summary.sizes.haystack,
    );
    for split in summary.splits() {
        out += &quality(summary, split);
        out += &kinds(summary, split);
    }
    out + &speed(summary)
}

fn quality(summary: &Summary, split: Split) -> String {
    let windows = summary.of(split).iter().find_map(|(_, q)| q.text.as_ref()).map_or(0, |t| t.windows);
    let mut out = format!(
        "\n## Quality, {split} ({windows} windows)\n\n\
         | configuration | bytes | perplexity ratio | KL a token | top-1 | passkey aware | agnostic | several keys aware | agnostic |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for (row, quality) in summary.of(split) {
        let text = quality.text.as_ref().map_or("- | - | -".to_owned(), |t| {
            format!(
                "{:.4}{} ({:.3}) | {:.4}{} | {:.1} %",
                t.ratio,
                error(t.ratio_error),
                t.worst_ratio,
                t.kl,
                error(t.kl_error),
                100.0 * t.agrees
            )
        });
        let tally = |mode, several| quality.tally(mode, several);
        out += &format!(
            "| {} | {} | {text} | {} | {} | {} | {} |\n",
            row.name,
            row.bytes(),
            tally(Mode::Aware, false),
            tally(Mode::Agnostic, false),
            tally(Mode::Aware, true),
            tally(Mode::Agnostic, true),
        );
    }
    out
}

/// Passkeys by the way in which the needle speaks of the key.
fn kinds(summary: &Summary, split: Split) -> String {
    const KINDS: [Kind; 3] = [Kind::SameTwice, Kind::OtherTwice, Kind::OtherOnce];
    if summary.of(split).iter().all(|(_, quality)| quality.needles.is_empty()) {
        return String::new();
    }
    let mut out = format!(
        "\n### Passkey by wording, {split}: aware, agnostic\n\n\
         | configuration | question's words, key twice | other words, key twice | other words, key once |\n\
         |---|---|---|---|\n"
    );
    for (row, quality) in summary.of(split) {
        let cell = |kind| {
            let mode = |mode| {
                let recall = quality.needles.iter().find(|r| r.kind == kind && r.mode == mode);
                recall.map_or("-".to_owned(), |r| r.tally.to_string())
            };
            format!("{}, {}", mode(Mode::Aware), mode(Mode::Agnostic))
        };
        out += &format!("| {} | {} |\n", row.name, KINDS.map(cell).join(" | "));
    }
    out
}

fn speed(summary: &Summary) -> String {
    let mut out = "\n## Speed and memory\n\nPeak is beside the weights; pools are those of the cache with its tables.\n\n\
                   | configuration | prompt | prefill | decode | pools | peak |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for row in &summary.rows {
        for s in &row.speed {
            out += &format!(
                "| {} | {} tokens | {:.2} s | {:.1} tokens/s | {} | {} |\n",
                row.name,
                s.prompt_tokens,
                s.prefill_seconds,
                s.decode_tokens_per_second,
                crate::cli::report::bytes(s.pool_bytes),
                crate::cli::report::bytes(s.peak_bytes)
            );
        }
    }
    out
}

fn error(error: Option<f64>) -> String {
    error.map_or(String::new(), |error| format!(" ± {error:.4}"))
}
