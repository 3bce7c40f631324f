//! What Mesa's AMD driver makes of compute shaders, without the hardware; README.md says how to use it. The driver reads
//! the family from its environment and may crash on a shader, so a child compiles, and another one goes on behind a crash.

mod driver;
mod mix;
mod spirv;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs, io};

use driver::{Choices, Compiled, Driver};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str =
    "usage: radv-stats [--family NAME] [--wave 32|64] [--no-robust] [--loops] [--asm] FILE.spv...";
/// Begins the line in which a child says which file it turns to.
const TURN: char = '\u{1}';
/// Begins the line with the names of the columns, printed once.
const HEADER: char = '\u{2}';

struct Options {
    family: String,
    choices: Choices,
    flags: Vec<String>,
    files: Vec<String>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let (mut family, mut choices) = ("GFX1100".to_owned(), Choices::default());
        let (mut flags, mut files) = (Vec::new(), Vec::new());
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--family" => family = args.next().ok_or(USAGE)?,
                "--wave" => choices.wave = Some(args.next().ok_or(USAGE)?.parse()?),
                "--no-robust" => choices.loose = true,
                "--loops" | "--asm" | "--child" => flags.push(arg),
                _ if arg.starts_with('-') => return Err(USAGE.into()),
                _ => files.push(arg),
            }
        }
        if files.is_empty() { Err(USAGE.into()) } else { Ok(Self { family, choices, flags, files }) }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

fn main() -> ExitCode {
    let done = Options::parse(env::args().skip(1))
        .and_then(|options| if options.has("--child") { compile(&options) } else { supervise(&options) });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("radv-stats: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs children until every file had its turn. Returns whether all is well.
fn supervise(options: &Options) -> Result<bool> {
    let (mut well, mut titled, mut next) = (true, false, 0);
    while next < options.files.len() {
        let mut child = Command::new(env::current_exe()?);
        child.args(env::args().skip(1).filter(|arg| !options.files.contains(arg)));
        child.arg("--child").args(&options.files[next..]).stdout(Stdio::piped());
        child.env("RADV_FORCE_FAMILY", &options.family).env("MESA_SHADER_CACHE_DISABLE", "true");
        let (mut child, first) = (child.spawn()?, next);
        for line in BufReader::new(child.stdout.take().ok_or("no pipe")?).lines() {
            let line = line?;
            match line.strip_prefix(HEADER) {
                Some(header) if !titled => writeln!(io::stdout(), "{header}")?,
                None if line.starts_with(TURN) => next += 1,
                None => writeln!(io::stdout(), "{line}")?,
                _ => {}
            }
            titled |= line.starts_with(HEADER);
        }
        let status = child.wait()?;
        well &= status.success();
        match status.code() {
            Some(0 | 1) => break,
            _ if next == first => return Err(format!("no device: {status}").into()),
            _ => eprintln!("{}: the compiler died: {status}", options.files[next - 1]),
        }
    }
    Ok(well)
}

/// The child: compiles one file after the other. Returns whether all is well.
fn compile(options: &Options) -> Result<bool> {
    let driver = Driver::open(options.choices)?;
    let (mut well, mut out) = (true, io::stdout().lock());
    for file in &options.files {
        writeln!(out, "{TURN}{file}")?;
        out.flush()?;
        let module = match fs::read(file).map_err(|e| e.to_string()).and_then(|bytes| spirv::read(&bytes)) {
            Ok(module) => module,
            Err(error) => {
                eprintln!("{file}: {error}");
                well = false;
                continue;
            }
        };
        for entry in &module.entry_points {
            match driver.compile(&module, entry, options.choices) {
                Ok(compiled) => show(&mut out, options, &format!("{file}\t{entry}"), &compiled)?,
                Err(error) => {
                    eprintln!("{file}: {entry}: refused: {error}");
                    well = false;
                }
            }
        }
    }
    Ok(well)
}

/// Prints what became of an entry point.
fn show(out: &mut impl Write, options: &Options, place: &str, compiled: &Compiled) -> Result<()> {
    let columns = compiled.statistics.iter().filter(|(name, _)| !name.to_lowercase().contains("hash"));
    let (names, values): (Vec<_>, Vec<_>) = columns
        .map(|(name, value)| (name.to_lowercase().replace([' ', '-'], "_"), value.to_string()))
        .unzip();
    writeln!(out, "{HEADER}file\tentry\t{}", names.join("\t"))?;
    writeln!(out, "{place}\t{}", values.join("\t"))?;
    if options.has("--loops") {
        mix::loops(&compiled.disassembly).iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    if options.has("--asm") {
        mix::instructions(&compiled.disassembly).try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
}
