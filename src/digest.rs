//! Hashes that files name things by: BLAKE3 over fields in a fixed order, each with its length.
//!
//! What is hashed is spelt out field by field, so that neither a new name in the code nor another compiler changes it.

/// A hash in the making.
#[derive(Debug, Clone)]
pub struct Digest(blake3::Hasher);

impl Digest {
    /// The hash of a `kind` of thing, such as `model/1`. Its number is raised when the fields that follow change.
    pub fn of(kind: &str) -> Self {
        Self(blake3::Hasher::new()).text(kind)
    }

    /// Adds bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        self
    }

    /// Adds a text.
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds whole numbers.
    pub fn sizes(self, sizes: &[usize]) -> Self {
        self.bytes(&sizes.iter().flat_map(|&size| (size as u64).to_le_bytes()).collect::<Vec<_>>())
    }

    /// Adds words.
    pub fn words(self, words: &[u32]) -> Self {
        self.bytes(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Adds numbers, of which different bits are different numbers.
    pub fn numbers(self, numbers: &[f32]) -> Self {
        self.bytes(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
    }

    /// The first 8 bytes of the hash, as 16 hexadecimal digits.
    pub fn hex(self) -> String {
        self.0.finalize().to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_stays_what_it_is() {
        let hash = Digest::of("thing/1").text("name").sizes(&[3, 4]).words(&[5]).numbers(&[0.5]).hex();
        assert_eq!(hash, "a01f273e7631e805");
    }

    #[test]
    fn neighbours_do_not_run_together() {
        let of = |fields: &[&str]| fields.iter().fold(Digest::of("a/1"), |hash, text| hash.text(text)).hex();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
    }
}
