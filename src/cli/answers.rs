//! The file of a batch's answers: a line for each prompt in order, written as soon as those before it are.
//!
//! A later run goes on behind the last whole line, and puts answers in the place of lines that say why there is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benben::Error;
use serde::{Deserialize, Serialize};

use super::output::{has_folder, lock};
use super::{Failure, Outcome};

/// What was answered anew is lost at most for so long if the program ends.
const REWRITE: Duration = Duration::from_secs(1);

/// A line of the answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Why there is no answer to this prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Line {
    fn is_answer(&self) -> bool {
        self.text.is_some() && self.tokens.is_some()
    }
}

/// The lines of a file of answers, open and locked.
pub struct Answers {
    path: PathBuf,
    file: File,
    /// Whole lines without their ends, and whether each is an answer.
    lines: Vec<(String, bool)>,
    prompts: usize,
    /// Lines differ from the file's since then.
    changed: Option<Instant>,
    /// There was no file before.
    created: bool,
}

impl Answers {
    /// Opens the file at `path`, which holds answers to the first of these prompts, or none yet.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written, another program writes it, or it holds something else.
    pub fn open(path: &Path, prompts: &[String]) -> Outcome<Self> {
        has_folder(path)?;
        let refuse = |reason: String| Err(Failure::Library(Error::Invalid(reason)));
        let created = !path.exists();
        if !created && !path.is_file() {
            return refuse(format!(
                "cannot write {}: it is no plain file; choose another --out",
                path.display()
            ));
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(|error| Failure::save(path, error))?;
        lock(&file, path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| Failure::save(path, error))?;
        let mut lines = Vec::new();
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        for line in text[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let found = serde_json::from_slice::<Line>(line).ok();
            let found = found.filter(|line| line.is_answer() || line.error.is_some());
            // Answers beyond the prompts are those of a longer file, and stay.
            match found.filter(|line| prompts.get(lines.len()).is_none_or(|prompt| *prompt == line.prompt)) {
                Some(line) => {
                    let answer = line.is_answer();
                    lines.push((serde_json::to_string(&line).map_err(io::Error::from)?, answer));
                }
                None => return refuse(other(path, lines.len() + 1)),
            }
        }
        if !begins_line(&text[whole..], prompts.get(lines.len())) {
            return refuse(other(path, lines.len() + 1));
        }
        // What was cut off amid a line is answered again.
        let cut = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(|error| Failure::save(path, error))?;
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, file, lines, prompts: prompts.len(), changed: None, created })
    }

    /// The prompts that have no answer.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.prompts).filter(|&i| !self.lines.get(i).is_some_and(|(_, answer)| *answer)).collect()
    }

    /// Lines that answer none of the prompts, behind those that do.
    pub fn beyond(&self) -> usize {
        self.lines.len().saturating_sub(self.prompts)
    }

    /// Puts in the line of prompt `i`; of those that are missing, the next.
    ///
    /// # Errors
    /// [`Failure::Save`] with the system's words.
    pub fn put(&mut self, i: usize, line: &Line) -> Outcome {
        let text = serde_json::to_string(line).map_err(io::Error::from)?;
        let written = match self.lines.get_mut(i) {
            Some(place) => {
                *place = (text, line.is_answer());
                let since = *self.changed.get_or_insert_with(Instant::now);
                if since.elapsed() > REWRITE { self.rewrite() } else { Ok(()) }
            }
            None => {
                let before = self.rewrite();
                self.lines.push((text, line.is_answer()));
                let text = self.lines.last().map_or("", |(text, _)| text).to_owned() + "\n";
                before.and_then(|()| self.file.write_all(text.as_bytes()))
            }
        };
        written.map_err(|error| Failure::save(&self.path, error))
    }

    /// Has all lines in the file.
    ///
    /// # Errors
    /// [`Failure::Save`] with the system's words.
    pub fn finish(&mut self) -> Outcome {
        self.rewrite().map_err(|error| Failure::save(&self.path, error))
    }

    /// Writes the file anew where lines in its middle have changed; it is there as a whole at every moment.
    fn rewrite(&mut self) -> io::Result<()> {
        if self.changed.take().is_none() {
            return Ok(());
        }
        let part = self.path.with_added_extension("benben-part");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&part)?;
        // Whoever opens the file next finds it locked.
        let _ = file.try_lock();
        let text: String = self.lines.iter().flat_map(|(line, _)| [line, "\n"]).collect();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let moved = written.and_then(|()| fs::rename(&part, &self.path));
        match moved {
            Ok(()) => self.file = file,
            Err(_) => drop(fs::remove_file(&part)),
        }
        moved
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let _ = self.rewrite();
        if self.created && self.lines.is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn other(path: &Path, line: usize) -> String {
    let path = path.display();
    format!(
        "line {line} of {path} is not the answer to prompt {line}; choose another --out, or delete the file"
    )
}

/// True if `text` is nothing, or the beginning of the line of `prompt`, which was cut off.
fn begins_line(text: &[u8], prompt: Option<&String>) -> bool {
    let Some(prompt) = prompt else { return text.is_empty() };
    let line = Line { prompt: prompt.clone(), text: None, tokens: None, error: None };
    let head = serde_json::to_string(&line).unwrap_or_default();
    let head = head.trim_end_matches('}').as_bytes();
    text.starts_with(head) || head.starts_with(text)
}
