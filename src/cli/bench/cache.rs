//! Caches by name, so that a flag can list several.

use std::str::FromStr;

use benben::KvOptions;
use benben::kv::policy::{Choice, Name, Preset};
use clap::ValueEnum;

/// A cache and the name that flags and reports have for it.
#[derive(Debug, Clone)]
pub struct Cache {
    pub name: String,
    pub kv: KvOptions,
}

impl FromStr for Cache {
    type Err = String;

    /// `full` (f16), `full-4` (bits), `auto-12` (percent of a full f16 cache's bytes), `rows-512` (rows a layer, in
    /// 4 bits), `pyramid-13b` (a published configuration).
    fn from_str(name: &str) -> Result<Self, String> {
        let unknown =
            || format!("'{name}' is none of full, full-4, auto-12, rows-512, pyramid-13b and their like");
        let (kind, size) = name.split_once('-').unwrap_or((name, ""));
        let number = || size.parse::<u32>().map_err(|_| unknown());
        let choice = match kind {
            "full" if name == "full" => Choice { policy: Some(Name::Full), ..Choice::default() },
            "full" => {
                let bits = Some(number()?);
                Choice { policy: Some(Name::Full), k_bits: bits, v_bits: bits, ..Choice::default() }
            }
            "auto" => Choice { share: Some(number()? as f32 / 100.0), ..Choice::default() },
            "rows" => {
                let rows = Some(number()? as usize);
                let bits = Some(4);
                Choice { policy: Some(Name::Joint), rows, k_bits: bits, v_bits: bits, ..Choice::default() }
            }
            "pyramid" => {
                let preset = Preset::from_str(size, true).map_err(|_| unknown())?;
                Choice { preset: Some(preset), ..Choice::default() }
            }
            _ => return Err(unknown()),
        };
        let kv = choice.options().map_err(|error| error.to_string())?;
        Ok(Self { name: name.to_owned(), kv })
    }
}

#[cfg(test)]
mod tests {
    use benben::KvBits;

    use super::*;

    #[test]
    fn names_are_caches() {
        for (name, policy, bits) in [
            ("full", "full", KvBits::Sixteen),
            ("full-8", "full", KvBits::Eight),
            ("auto-12", "auto", KvBits::Four),
            ("rows-512", "joint", KvBits::Four),
            ("pyramid-13b", "pyramid", KvBits::Sixteen),
        ] {
            let cache: Cache = name.parse().unwrap();
            assert_eq!((cache.kv.policy.name(), cache.kv.format.k), (policy, bits), "{name}");
        }
        for absurd in ["", "full-5", "auto", "auto-0", "auto-101", "rows-", "pyramid-3b", "h2o", "full-"] {
            assert!(absurd.parse::<Cache>().is_err(), "{absurd}");
        }
    }
}
