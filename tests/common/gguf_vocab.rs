//! The `tokenizer.*` metadata of a GGUF file and nothing else, read without the crate's own parser.
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 pairs:u64 { key:string type:u32 value }…
//! string = length:u64 bytes      array = type:u32 count:u64 items
//! ```

use std::{collections::HashMap, fs::File, io::BufReader, io::Read, path::Path};

use benben::text::Vocabulary;

enum Value {
    Number(f64),
    Text(String),
    List(Vec<Value>),
}

struct Reader<R>(R);

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).expect("GGUF header is complete");
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn string(&mut self) -> String {
        let mut bytes = vec![0; self.u64() as usize];
        self.0.read_exact(&mut bytes).expect("GGUF string is complete");
        String::from_utf8(bytes).expect("GGUF string is UTF-8")
    }

    fn value(&mut self, kind: u32) -> Value {
        Value::Number(match kind {
            0 | 7 => f64::from(self.bytes::<1>()[0]),
            1 => f64::from(i8::from_le_bytes(self.bytes())),
            2 => f64::from(u16::from_le_bytes(self.bytes())),
            3 => f64::from(i16::from_le_bytes(self.bytes())),
            4 => f64::from(self.u32()),
            5 => f64::from(i32::from_le_bytes(self.bytes())),
            6 => f64::from(f32::from_le_bytes(self.bytes())),
            8 => return Value::Text(self.string()),
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                return Value::List((0..count).map(|_| self.value(kind)).collect());
            }
            10 => self.u64() as f64,
            11 => i64::from_le_bytes(self.bytes()) as f64,
            12 => f64::from_le_bytes(self.bytes()),
            other => panic!("GGUF value type {other}"),
        })
    }
}

pub fn read(path: &Path) -> Vocabulary {
    let mut reader = Reader(BufReader::new(File::open(path).expect("model file opens")));
    assert_eq!(&reader.bytes(), b"GGUF");
    let _version = reader.u32();
    let _tensors = reader.u64();
    let pairs = reader.u64();
    let mut metadata = HashMap::new();
    for _ in 0..pairs {
        let (key, kind) = (reader.string(), reader.u32());
        metadata.insert(key, reader.value(kind));
    }

    let get = |key: &str| metadata.get(&format!("tokenizer.{key}"));
    let text = |key| match get(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let number = |key| match get(key) {
        Some(Value::Number(number)) => Some(*number),
        _ => None,
    };
    let texts =
        |key| list(get(key)).filter_map(|v| if let Value::Text(t) = v { Some(t.clone()) } else { None });
    let numbers = |key| list(get(key)).filter_map(|v| if let Value::Number(n) = v { Some(*n) } else { None });
    Vocabulary {
        model: text("ggml.model").expect("a tokenizer model"),
        pre: text("ggml.pre"),
        tokens: texts("ggml.tokens").collect(),
        types: numbers("ggml.token_type").map(|n| n as i32).collect(),
        scores: numbers("ggml.scores").map(|n| n as f32).collect(),
        merges: texts("ggml.merges").collect(),
        bos: number("ggml.bos_token_id").map(|n| n as u32),
        eos: number("ggml.eos_token_id").map(|n| n as u32),
        eot: number("ggml.eot_token_id").map(|n| n as u32),
        unk: number("ggml.unknown_token_id").map(|n| n as u32),
        pad: number("ggml.padding_token_id").map(|n| n as u32),
        add_bos: number("ggml.add_bos_token").map(|n| n != 0.0),
        add_space_prefix: number("ggml.add_space_prefix").map(|n| n != 0.0),
        chat_template: text("chat_template"),
    }
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    match value {
        Some(Value::List(items)) => items.iter(),
        _ => [].iter(),
    }
}
