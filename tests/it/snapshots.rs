//! Conversations in files: what comes back goes on as if it had never left, and what does not fit is refused.

use std::sync::Arc;

use crate::common::testbed::{answer, gpu, greedy, load, model};
use crate::common::tiny::{Shape, Tiny, prompt};
use benben::kv::Format;
use benben::kv::policy::{Budget, Full, Joint, KvOnly, Pyramid, Select};
use benben::{Error, KvBits, KvOptions, LoadOptions, Model, RowFormat, Session, SessionOptions};
use pollster::block_on;

fn options(kv: &KvOptions) -> SessionOptions {
    SessionOptions { kv: kv.clone(), context: Some(600) }
}

fn full() -> KvOptions {
    KvOptions::new(Full, Format::F16)
}

fn restored(model: &Arc<Model>, kv: &KvOptions, bytes: &[u8]) -> Result<(Session, String), Error> {
    block_on(Session::from_bytes(model, &options(kv), "talk.benben", bytes))
}

fn saved(kv: &KvOptions) -> Vec<u8> {
    let mut session = Session::new(&model(), &options(kv)).unwrap();
    answer(&mut session, &prompt(1, 60), 9);
    block_on(session.to_bytes("a note")).unwrap()
}

/// The sentence of a refusal.
fn refusal(kv: &KvOptions, bytes: &[u8]) -> String {
    let error = restored(&model(), kv, bytes).map(drop).unwrap_err();
    assert!(
        matches!(error, Error::Format { .. } | Error::Invalid(_) | Error::ContextFull { .. }),
        "{error:?}"
    );
    error.to_string()
}

#[test]
fn what_comes_back_goes_on_as_if_it_had_not_left() {
    let four = Format::both(KvBits::Four);
    let joint = KvOptions::new(Joint::new(Budget::Share(0.5)), four);
    let caches = [
        full(),
        KvOptions::new(Full, Format { k: KvBits::Sixteen, v: KvBits::Three }),
        KvOptions { tail: Some(Format::both(KvBits::Two)), ..joint.clone() },
        joint,
        KvOptions::new(KvOnly::per_head(Budget::Share(0.5)), Format::both(KvBits::Eight)),
        KvOptions::new(Pyramid::cosine(0.5, 1), Format::F16),
        KvOptions::new(Pyramid::exact(vec![90, 70, 50, 30], Select::Previous, 8, 4), four),
    ];
    for kv in caches {
        let mut session = Session::new(&model(), &options(&kv)).unwrap();
        answer(&mut session, &prompt(2, 120), 70);
        // A shared tier and own ones become one; a token that has not run yet comes along.
        let mut fork = session.fork().unwrap();
        answer(&mut fork, &prompt(3, 25), 5);
        fork.append(&prompt(4, 3)).unwrap();
        let bytes = block_on(fork.to_bytes("who said what")).unwrap();
        let share = bytes.len() as f64 / fork.kv().bytes as f64;
        assert!(share < 1.6, "{kv:?}: {} bytes for {:?}", bytes.len(), fork.kv());
        let (mut back, note) = restored(&model(), &kv, &bytes).unwrap();
        assert_eq!((note.as_str(), back.tokens(), back.kv()), ("who said what", fork.tokens(), fork.kv()));
        let again = block_on(back.to_bytes("who said what")).unwrap();
        assert!(split(&again).1 == split(&bytes).1, "{kv:?}: rows changed on their way");
        for layer in 0..4 {
            let positions = |s: &mut Session| block_on(s.positions(layer)).unwrap();
            assert_eq!(positions(&mut back), positions(&mut fork), "{kv:?}");
        }
        assert_eq!(greedy(&mut back, 60), greedy(&mut fork, 60), "{kv:?}");
        assert_eq!(answer(&mut back, &prompt(5, 30), 9), answer(&mut fork, &prompt(5, 30), 9), "{kv:?}");
    }
}

#[test]
fn random_answers_go_on_too_and_files_are_replaced_whole() {
    let mut sampling = benben::Sampling { temperature: 1.0, ..Default::default() };
    sampling.seed = 7;
    let said = |session: &mut Session| {
        let options = benben::GenerateOptions { max_tokens: 12, sampling, stop: Some(Vec::new()) };
        let mut answer = session.generate(&options).unwrap();
        let mut said = Vec::new();
        while let Some(token) = block_on(answer.next()) {
            said.push(token.unwrap());
        }
        said
    };
    let path = std::env::temp_dir().join(format!("benben-snapshot-{}", std::process::id()));
    let mut session = Session::new(&model(), &options(&full())).unwrap();
    block_on(session.save(&path, "empty")).unwrap();
    session.append(&prompt(6, 40)).unwrap();
    said(&mut session);
    block_on(session.save(&path, "")).unwrap();
    let (mut back, _) = block_on(Session::restore(&model(), &options(&full()), &path)).unwrap();
    assert_eq!(said(&mut back), said(&mut session));
    std::fs::remove_file(&path).unwrap();
    let nowhere = path.join("nowhere");
    assert!(block_on(session.save(&nowhere, "")).unwrap_err().to_string().contains("cannot write"));
    let missing = block_on(Session::restore(&model(), &options(&full()), &nowhere)).map(drop).unwrap_err();
    assert!(matches!(missing, Error::File { .. }), "{missing}");
}

#[test]
fn an_empty_conversation_comes_back_empty() {
    let mut session = Session::new(&model(), &options(&full())).unwrap();
    let bytes = block_on(session.to_bytes("")).unwrap();
    let (mut back, _) = restored(&model(), &full(), &bytes).unwrap();
    assert_eq!(answer(&mut back, &prompt(7, 30), 8), answer(&mut session, &prompt(7, 30), 8));
}

#[test]
fn what_does_not_belong_here_is_refused() {
    let bytes = saved(&full());
    for kv in [
        KvOptions::new(Full, Format::both(KvBits::Eight)),
        KvOptions::new(Joint::new(Budget::Share(0.5)), Format::F16),
    ] {
        let said = refusal(&kv, &bytes);
        assert!(said.contains("another policy, budget or row format"), "{said}");
    }
    assert!(
        !refusal(
            &KvOptions::new(Joint::new(Budget::Share(0.4)), Format::F16),
            &saved(&KvOptions::new(Joint::new(Budget::Share(0.5)), Format::F16,))
        )
        .is_empty()
    );
    let other = load(&gpu(), &Tiny::shaped(Shape { width: 64, query: 4, kv: 4, dim: 32, ffn: 96 }).file());
    let mut weights = Tiny::new();
    weights.tensor("blk.2.ffn_down.weight").values[5] += 1.0;
    let load_options = LoadOptions { weights: Some(RowFormat::Q8), ..LoadOptions::default() };
    let coarse = block_on(Model::from_file(&gpu(), &Tiny::new().file(), &load_options, |_| ())).unwrap();
    for other in [other, load(&gpu(), &weights.file()), coarse] {
        let said = restored(&other, &full(), &bytes).map(drop).unwrap_err().to_string();
        assert!(said.contains("with another model"), "{said}");
    }
    let short = SessionOptions { context: Some(50), kv: full() };
    let said = block_on(Session::from_bytes(&model(), &short, "talk", &bytes)).map(drop).unwrap_err();
    assert!(matches!(said, Error::ContextFull { context: 50, .. }), "{said}");
}

/// A file's header and its data.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = bytes.split_first_chunk::<8>().unwrap();
    rest.split_at(u64::from_le_bytes(*len) as usize)
}

/// The file with its header changed by `bend`, and the data as it was.
fn bent(bytes: &[u8], bend: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let (header, data) = split(bytes);
    let mut header = serde_json::from_slice(header).unwrap();
    bend(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], data].concat()
}

/// Where a tensor's first byte is.
fn place(bytes: &[u8], name: &str) -> usize {
    let header = split(bytes).0;
    let data = 8 + header.len();
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    data + header[name]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let bytes = saved(&full());
    for end in (0..bytes.len()).step_by(bytes.len() / 60).chain([1, 7, 8, 9, bytes.len() - 1]) {
        refusal(&full(), &bytes[..end]);
    }
    refusal(&full(), &[&bytes[..], &[0]].concat());
    let set = |key: &'static str, value: &'static str| {
        bent(&bytes, move |header| header["__metadata__"][key] = value.into())
    };
    for (key, value, reason) in [
        ("format", "pt", "not a conversation"),
        ("version", "1", "version '1'"),
        ("model", "0", "another model"),
        ("cached", "70", "only 69 tokens"),
        ("cached", "-1", "no number"),
        ("cached", "99999999999999999999", "no number"),
        ("cached", "5", "rows of 5 tokens"),
        ("drawn", "4294967296", "drawn"),
    ] {
        let said = refusal(&full(), &set(key, value));
        assert!(said.contains(reason), "{key}={value}: {said}");
    }
    let rename = |from: &'static str, to: &'static str| {
        bent(&bytes, move |header| {
            let entry = header.as_object_mut().unwrap().remove(from).unwrap();
            header[to] = entry;
        })
    };
    assert!(refusal(&full(), &rename("main.2.book", "main.9.book")).contains("no rows"));
    assert!(refusal(&full(), &rename("main.2.k", "main.2.keys")).contains("'main.2.k' is nothing"));
    assert!(refusal(&full(), &rename("tokens", "ids")).contains("'tokens'"));
    for (name, shape) in
        [("main.1.v", vec![34, 64]), ("main.1.book", vec![3, 1, 68]), ("tokens", vec![69, 1])]
    {
        refusal(&full(), &bent(&bytes, |header| header[name]["shape"] = shape.clone().into()));
    }
    let word = |name: &str, index: usize, value: u32| {
        let (mut bytes, at) = (bytes.clone(), place(&bytes, name) + 4 * index);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    assert!(refusal(&full(), &word("tokens", 3, u32::MAX)).contains("outside the vocabulary"));
    assert!(refusal(&full(), &word("main.0.book", 7, u32::MAX)).contains("positions"));
    assert!(refusal(&full(), &word("main.3.book", 7, 0)).contains("positions"));
    // Rows are any bits: such an answer is nonsense and no more.
    let (mut back, _) = restored(&model(), &full(), &word("main.0.k", 5, u32::MAX)).unwrap();
    greedy(&mut back, 3);
}
