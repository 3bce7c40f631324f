//! Models that are read by ranges: the same weights, and never more at a time than the loader can use.

use std::fs;
use std::sync::{Arc, Mutex};

use crate::common::testbed::{answer, gpu, load, session};
use crate::common::tiny::{Shape, Tiny, prompt};
use benben::weights::{ByteSource, FileKind, ModelFile, Reading, RowFormat, Value};
use benben::{Error, LoadOptions, Model, Session, SessionOptions};
use pollster::block_on;

/// What a source was asked for: (offset, length).
type Log = Arc<Mutex<Vec<(u64, usize)>>>;

/// A file in memory that keeps a log, and may fail from some byte on.
struct Logged {
    bytes: Vec<u8>,
    log: Log,
    ends: u64,
}

impl ByteSource for Logged {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> Reading<'_> {
        Box::pin(async move {
            self.log.lock().unwrap().push((offset, len));
            assert!(offset + len as u64 <= self.size(), "{len} bytes at {offset} are not inside");
            let rest = self.ends.saturating_sub(offset).min(len as u64) as usize;
            Ok(self.bytes[offset as usize..][..rest].to_vec())
        })
    }
}

fn fetch(files: &[(String, Vec<u8>)], log: &Log, ends: u64) -> benben::Result<ModelFile> {
    let source = |(name, bytes): &(String, Vec<u8>)| {
        let source = Logged { bytes: bytes.clone(), log: log.clone(), ends };
        (name.clone(), Box::new(source) as Box<dyn ByteSource>)
    };
    block_on(ModelFile::fetch(files.iter().map(source).collect()))
}

fn fetched(files: &[(String, Vec<u8>)]) -> ModelFile {
    fetch(files, &Log::default(), u64::MAX).expect("a sound model")
}

fn refusal(files: &[(String, Vec<u8>)]) -> String {
    fetch(files, &Log::default(), u64::MAX).err().expect("the files are accepted").to_string()
}

/// A model with tensors that are longer than what is read at a time.
fn fat() -> Tiny {
    Tiny::shaped(Shape { width: 512, query: 4, kv: 2, dim: 32, ffn: 5000 })
}

fn answers(file: &ModelFile) -> Vec<u32> {
    let model = load(&gpu(), file);
    answer(&mut Session::new(&model, &SessionOptions::default()).unwrap(), &prompt(3, 40), 12)
}

#[test]
fn shards_answer_as_the_whole_file_does() {
    let tiny = Tiny::new();
    let expected = answer(&mut session(&SessionOptions::default()), &prompt(3, 40), 12);
    assert_eq!(answers(&fetched(&[("tiny.gguf".into(), tiny.gguf())])), expected);
    let mut shards = tiny.gguf_shards(3);
    shards.rotate_left(1);
    assert_eq!(answers(&fetched(&shards)), expected);

    let safetensors = fetched(&tiny.safetensors_shards(2));
    assert_eq!(safetensors.kind(), FileKind::Safetensors);
    assert_eq!(answers(&safetensors), answers(&tiny.safetensors()));
}

#[test]
fn shards_on_disk_are_found_by_any_of_their_names() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("gguf-shards");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let shards = Tiny::new().gguf_shards(3);
    for (name, bytes) in &shards {
        fs::write(folder.join(name), bytes).unwrap();
    }
    for (name, _) in &shards {
        let file = ModelFile::open(&folder.join(name)).unwrap();
        assert_eq!(file.tensors().count(), Tiny::new().tensors.len());
        assert_eq!(file.meta().str("general.name").unwrap(), "tiny");
    }
    fs::remove_file(folder.join(&shards[1].0)).unwrap();
    let message = ModelFile::open(&folder.join(&shards[2].0)).err().unwrap().to_string();
    assert!(message.contains("tiny-00002-of-00003.gguf"), "{message}");
}

#[test]
fn files_that_are_not_one_model_are_refused() {
    let tiny = Tiny::new();
    let shards = tiny.gguf_shards(3);
    assert!(refusal(&shards[..2]).contains("shard 1 of 3, and 2 came"));
    assert!(refusal(&[shards[0].clone(), shards[1].clone(), shards[1].clone()]).contains("came twice"));
    let whole = ("tiny.gguf".to_owned(), tiny.gguf());
    assert!(refusal(&[whole.clone(), whole.clone()]).contains("2 came"));
    let checkpoint = tiny.safetensors_shards(2);
    assert!(refusal(&[whole, checkpoint[0].clone()]).contains("together are not one model"));
    assert!(refusal(&checkpoint[2..]).contains("there is no GGUF and no .safetensors file"));
    assert!(
        refusal(&[&checkpoint[1..], &[]].concat()).contains("is not in 'model-00001-of-00002.safetensors'")
    );
    assert!(refusal(&[]).contains("no GGUF"));
    assert!(refusal(&[("notes.txt".into(), b"GGML".to_vec())]).contains("neither GGUF nor"));
}

#[test]
fn a_long_header_is_fetched_in_growing_pieces() {
    let words = Value::Array((0..400_000).map(|i| Value::String(format!("word {i}"))).collect());
    let tiny = Tiny::new().with_meta("a.long.list", words);
    let files = [("tiny.gguf".to_owned(), tiny.gguf())];
    let log = Log::default();
    let file = fetch(&files, &log, u64::MAX).unwrap();
    assert_eq!(file.meta().strings("a.long.list").unwrap().len(), 400_000);
    let pieces = log.lock().unwrap().clone();
    assert!(pieces.len() > 2, "{pieces:?}");
    // Every byte was asked for once.
    let mut end = 0;
    for (offset, len) in pieces {
        assert_eq!(offset, end);
        end += len as u64;
    }
}

#[test]
fn tensors_are_read_in_small_pieces_and_once() {
    let tiny = fat();
    let files = [("fat.gguf".to_owned(), tiny.gguf())];
    let log = Log::default();
    let file = fetch(&files, &log, u64::MAX).unwrap();
    assert!(file.tensors().any(|tensor| tensor.byte_len() > 4 << 20), "no tensor needs cutting");
    log.lock().unwrap().clear();
    let mut done = 0;
    block_on(Model::from_file(&gpu(), &file, &LoadOptions::default(), |progress| done = progress.done))
        .unwrap();
    assert_eq!(done, file.total_bytes());
    let reads = log.lock().unwrap().clone();
    assert!(reads.iter().all(|(_, len)| *len <= 4 << 20), "{reads:?}");
    // All but the last norm, from which the model is known before it is loaded.
    let again = file.tensor("output_norm.weight").unwrap().byte_len() as u64;
    assert_eq!(reads.iter().map(|(_, len)| *len as u64).sum::<u64>(), file.total_bytes() + again);
    for format in [RowFormat::F16, RowFormat::Q8, RowFormat::Q4] {
        let tensor = file.tensor("blk.2.ffn_down.weight").unwrap();
        let whole = tiny.file();
        let expected = block_on(whole.pack(whole.tensor(&tensor.name).unwrap(), 100, 9, format)).unwrap();
        assert_eq!(block_on(file.pack(tensor, 100, 9, format)).unwrap(), expected);
    }
}

#[test]
fn a_source_that_stops_short_is_an_error() {
    let files = [("fat.gguf".to_owned(), fat().gguf())];
    let message = fetch(&files, &Log::default(), 100).err().unwrap().to_string();
    assert!(message.contains("cannot read fat.gguf: 100 of"), "{message}");
    let file = fetch(&files, &Log::default(), 3 << 20).unwrap();
    let loaded = block_on(Model::from_file(&gpu(), &file, &LoadOptions::default(), |_| ()));
    assert!(matches!(loaded, Err(Error::File { .. })));
    let foreign = Tiny::new().file();
    let tensor = foreign.tensor("output.weight").unwrap();
    assert!(matches!(block_on(file.bytes(tensor)), Err(Error::Invalid(_))));
}
