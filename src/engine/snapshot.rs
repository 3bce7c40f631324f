//! Conversations in files: safetensors with the live rows as they are packed, and in their metadata what they mean.
//!
//! ```text
//! metadata   format, version · model, cache: what must be the same · cached, drawn · note: the caller's
//! tokens U32 [tokens]
//! centre.L F32 [KV head * dim]              where keys are stored relative to it
//! main.L.k, .v, .steps U32 [rows, words]    and so for sinks and tail, where a layer has any
//! main.L.book U32 [tables, 3, rows]         position and two running sums
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata, TensorView};

use super::session::{Session, SessionOptions};
use crate::kv::{PackedLayer, PackedTier, Role};
use crate::model::Model;
use crate::weights::safetensors_header;
use crate::{Error, Result};

const FORMAT: &str = "benben conversation";
/// Raised with every change after which an older program would read nonsense.
const VERSION: &str = "2";

const PARTS: [&str; 3] = ["k", "v", "steps"];

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Sinks => "sinks",
        Role::Tail => "tail",
        Role::Main => "main",
    }
}

impl Session {
    /// The conversation as the bytes of a file: its tokens and live rows, and a note that the caller gets back with
    /// them. It goes on after [`Session::from_bytes`] as it would here.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; [`Error::Unsupported`] for a conversation that has rows on the host.
    pub async fn to_bytes(&mut self, note: &str) -> Result<Vec<u8>> {
        self.refuse_host("a snapshot")?;
        let mut tensors = BTreeMap::new();
        tensors.insert(
            "tokens".to_owned(),
            (Dtype::U32, vec![self.seq.tokens.len()], bytes_of(&self.seq.tokens)),
        );
        for l in 0..self.seq.cache.depth() {
            let PackedLayer { centre, first_tokens, tiers } =
                self.seq.cache.pack(&mut self.desk.rec, l).await?;
            if !centre.is_empty() {
                let shape = vec![centre.len()];
                tensors.insert(format!("centre.{l}"), (Dtype::F32, shape, bytes_of(&centre)));
            }
            if !first_tokens.is_empty() {
                let shape = vec![first_tokens.len()];
                tensors.insert(format!("first.{l}"), (Dtype::F32, shape, bytes_of(&first_tokens)));
            }
            for PackedTier { role, rows, words, book } in tiers {
                let name = |part: &str| format!("{}.{l}.{part}", role_name(role));
                for (part, words) in PARTS.into_iter().zip(words).filter(|(_, words)| !words.is_empty()) {
                    let shape = vec![rows, words.len() / rows];
                    tensors.insert(name(part), (Dtype::U32, shape, bytes_of(&words)));
                }
                let shape = vec![book.len() / (3 * rows), 3, rows];
                tensors.insert(name("book"), (Dtype::U32, shape, bytes_of(&book)));
            }
        }
        self.seq.model.gpu().check()?;
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("model", self.seq.model.checksum().await?),
            ("cache", self.seq.kv.key()),
            ("cached", self.seq.cached.to_string()),
            ("drawn", self.seq.drawn.to_string()),
            ("note", note.to_owned()),
        ];
        let metadata: HashMap<_, _> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let fault = |e: safetensors::SafeTensorError| {
            Error::Invalid(format!("the conversation cannot be packed: {e}"))
        };
        let mut views = Vec::new();
        for (name, (dtype, shape, bytes)) in &tensors {
            views.push((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(fault)?));
        }
        safetensors::serialize(views, Some(metadata)).map_err(fault)
    }

    /// The conversation that [`Session::to_bytes`] packed, and its note. `file` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Format`] for damaged bytes, [`Error::Invalid`] for a conversation with another model, policy or
    /// format, [`Error::ContextFull`] for one that is too long for `options`; and as [`Session::new`].
    pub async fn from_bytes(
        model: &Arc<Model>,
        options: &SessionOptions,
        file: &str,
        bytes: &[u8],
    ) -> Result<(Self, String)> {
        let mut file = Snapshot::open(file, bytes)?;
        let mut session = Self::new(model, options)?;
        file.expect("model", &model.checksum().await?, "another model, or its weights in another format")?;
        file.expect("cache", &session.seq.kv.key(), "another policy, budget or row format")?;
        let count = file.shape("tokens").and_then(|shape| shape.first().copied()).unwrap_or(0);
        let tokens = file.words("tokens", &[count])?;
        session.seq.check_room(0, &tokens)?;
        let (cached, drawn) = (file.number("cached")?, file.number("drawn")?);
        if cached > tokens.len() {
            return Err(
                file.fault(format!("it has rows of {cached} tokens, but only {} tokens", tokens.len()))
            );
        }
        for l in 0..session.seq.cache.depth() {
            let layer = file.layer(&session, l, cached)?;
            session.seq.cache.unpack(l, &layer)?;
        }
        file.close()?;
        model.gpu().write(&session.seq.ids, 0, &tokens);
        session.seq.drawn =
            u32::try_from(drawn).map_err(|_| file.fault(format!("it has drawn {drawn} tokens")))?;
        (session.seq.tokens, session.seq.cached) = (tokens, cached);
        Ok((session, file.text("note")?.to_owned()))
    }

    /// Writes the conversation and a note to a file; what was there before stays until all is written.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the operating system's words; as [`Session::to_bytes`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn save(&mut self, path: impl AsRef<std::path::Path>, note: &str) -> Result<()> {
        let (path, bytes) = (path.as_ref(), self.to_bytes(note).await?);
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
        written.map_err(|e| {
            let _ = std::fs::remove_file(&part);
            Error::Invalid(format!("cannot write {}: {e}", path.display()))
        })
    }

    /// Goes on with a conversation from a file, and returns its note.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read; as [`Session::from_bytes`].
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn restore(
        model: &Arc<Model>,
        options: &SessionOptions,
        path: impl AsRef<std::path::Path>,
    ) -> Result<(Self, String)> {
        let path = path.as_ref().display().to_string();
        let bytes =
            std::fs::read(&path).map_err(|e| Error::File { path: path.clone(), reason: e.to_string() })?;
        Self::from_bytes(model, options, &path, &bytes).await
    }
}

fn bytes_of<T: bytemuck::Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// A file whose header is sound; its tensors are not yet known to be what they should.
struct Snapshot<'a> {
    file: &'a str,
    header: Metadata,
    data: &'a [u8],
    /// Tensors that nobody asked for yet.
    left: Vec<String>,
}

impl<'a> Snapshot<'a> {
    fn open(file: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let (header, data) = safetensors_header(file, bytes)?;
        let left = header.offset_keys();
        let snapshot = Self { file, header, data: &bytes[data..], left };
        let has = |key, value| snapshot.text(key).is_ok_and(|found| found == value);
        if !has("format", FORMAT) {
            return Err(snapshot.fault("it is not a conversation that was saved".to_owned()));
        }
        if !has("version", VERSION) {
            let version = snapshot.text("version").unwrap_or("unknown");
            return Err(snapshot.fault(format!("it has version '{version}', this program reads {VERSION}")));
        }
        Ok(snapshot)
    }

    fn fault(&self, reason: String) -> Error {
        Error::format(self.file, reason)
    }

    fn text(&self, key: &str) -> Result<&str> {
        let text = self.header.metadata().as_ref().and_then(|metadata| metadata.get(key));
        text.map(String::as_str).ok_or_else(|| self.fault(format!("its metadata have no '{key}'")))
    }

    fn number(&self, key: &str) -> Result<usize> {
        let text = self.text(key)?;
        text.parse().map_err(|_| self.fault(format!("its '{key}' is '{text}', which is no number")))
    }

    fn expect(&self, key: &str, wanted: &str, difference: &str) -> Result<()> {
        if self.text(key)? == wanted {
            return Ok(());
        }
        let file = self.file;
        Err(Error::Invalid(format!(
            "{file} is a conversation with {difference}; open it with what it was saved with"
        )))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| &info.shape[..])
    }

    /// The four-byte values of a tensor that must have this shape.
    fn values<T: bytemuck::Pod>(&mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Vec<T>> {
        let found = self.header.info(name);
        let Some(info) = found.filter(|info| info.dtype == dtype && info.shape == shape) else {
            let found =
                found.map_or("nothing".to_owned(), |info| format!("{:?} {:?}", info.dtype, info.shape));
            return Err(self.fault(format!("its '{name}' is {found}, not {dtype:?} {shape:?}")));
        };
        let (from, to) = info.data_offsets;
        let bytes = self.data.get(from..to).unwrap_or_default();
        let values = bytemuck::pod_collect_to_vec(bytes);
        self.left.retain(|left| left != name);
        Ok(values)
    }

    fn words(&mut self, name: &str, shape: &[usize]) -> Result<Vec<u32>> {
        self.values(name, Dtype::U32, shape)
    }

    /// A layer's rows, at most `cached` of them.
    fn layer(&mut self, session: &Session, l: usize, cached: usize) -> Result<PackedLayer> {
        let mut layer = PackedLayer::default();
        let centre = session.seq.cache.basis(l).centre.len();
        if centre > 0 {
            layer.centre = self.values(&format!("centre.{l}"), Dtype::F32, &[centre])?;
        }
        let firsts = session.seq.cache.first_tokens(l).iter().map(crate::gpu::Tensor::len).sum();
        if firsts > 0 {
            layer.first_tokens = self.values(&format!("first.{l}"), Dtype::F32, &[firsts])?;
        }
        let mut total = 0_usize;
        for role in Role::ALL {
            let Some((widths, book)) = session.seq.cache.widths(l, role) else { continue };
            let name = |part: &str| format!("{}.{l}.{part}", role_name(role));
            let Some(&[_, _, rows]) = self.shape(&name("book")) else { continue };
            total = total.saturating_add(rows);
            if rows == 0 || total > cached {
                return Err(self.fault(format!("layer {l} has {total} rows of {cached} tokens")));
            }
            let book = self.words(&name("book"), &[book / 3, 3, rows])?;
            let positions = book.chunks_exact(rows).step_by(3);
            let sound = |set: &[u32]| {
                set.is_sorted_by(|a, b| a < b) && set.last().is_some_and(|&last| (last as usize) < cached)
            };
            if !positions.into_iter().all(sound) {
                return Err(
                    self.fault(format!("the positions of layer {l} are not those of {cached} tokens"))
                );
            }
            let mut words = [const { Vec::new() }; 3];
            for ((part, width), words) in PARTS.into_iter().zip(widths).zip(&mut words) {
                if width > 0 {
                    *words = self.words(&name(part), &[rows, width])?;
                }
            }
            layer.tiers.push(PackedTier { role, rows, words, book });
        }
        if total == 0 && cached > 0 {
            return Err(self.fault(format!("layer {l} has no rows of {cached} tokens")));
        }
        Ok(layer)
    }

    fn close(&self) -> Result<()> {
        match self.left.first() {
            Some(name) => Err(self.fault(format!("nothing is known of its tensor '{name}'"))),
            None => Ok(()),
        }
    }
}
