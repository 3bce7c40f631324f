//! The house rules that a compiler does not know: which file goes with which, and what a room may name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the ground up; rooms on one floor do not use each other, but for a format's vocabulary.
const FLOORS: [&[&str]; 8] = [
    &["gpu"],
    &["kernels"],
    &["weights", "text"],
    &["kv"],
    &["model"],
    &["plan"],
    &["engine"],
    &["cli", "main", "web"],
];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry, extension));
        } else if entry.extension().is_some_and(|e| e == extension) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// Every source file, by its path below `src/`, with its text.
fn sources() -> Vec<(String, String)> {
    let src = root("src");
    let below = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
    files(&src, "rs").iter().map(|path| (below(path), fs::read_to_string(path).unwrap())).collect()
}

/// Lines of code with their numbers, comments left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn every_shader_has_its_kernel_and_every_kernel_its_shader() {
    let shaders = fs::read_dir(root("shaders")).unwrap().map(|entry| entry.unwrap().path());
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let shaders: BTreeSet<String> = shaders.filter(|path| path.is_file()).map(|path| stem(&path)).collect();
    let declares = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("const SHADER: Shader");
    let kernels = files(&root("src/kernels"), "rs").into_iter().filter(declares);
    assert_eq!(shaders, kernels.map(|path| stem(&path)).collect::<BTreeSet<_>>());
}

#[test]
fn only_the_ground_floor_names_the_graphics_library() {
    for (file, text) in sources() {
        // `Gpu::adopt` needs callers who can name it; lib.rs hands it on.
        let allowed = file.starts_with("gpu/") || ["trusted.rs", "lib.rs"].contains(&file.as_str());
        let named = code(&text).find(|(_, line)| line.contains("wgpu::") || line.contains("use wgpu"));
        assert!(allowed || named.is_none(), "{file}: {named:?}");
    }
}

#[test]
fn only_one_file_is_unsafe() {
    for (file, text) in sources() {
        let found = code(&text).find(|(_, line)| line.contains("unsafe ") || line.contains("(unsafe_code)"));
        let allowed = file == "trusted.rs" || found.is_none_or(|(_, line)| line == "#![deny(unsafe_code)]");
        assert!(allowed, "{file}: {found:?}");
    }
}

#[test]
fn no_room_uses_one_above_it() {
    for (file, text) in sources() {
        let room = file.split('/').next().unwrap().trim_end_matches(".rs");
        let Some(own) = floor(room) else { continue };
        for (number, line) in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("");
                let above = floor(used).is_some_and(|floor| floor > own);
                assert!(!above, "src/{file}:{number}: {room} uses {used}, which is above it");
            }
        }
    }
}

#[test]
fn every_file_is_short_and_says_what_it_is() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 350, "src/{file} has {lines} lines");
        assert!(file == "main.rs" || text.starts_with("//!"), "src/{file} does not say what it is for");
    }
    for shader in files(&root("shaders"), "wgsl") {
        let text = fs::read_to_string(&shader).unwrap();
        assert!(text.starts_with("//"), "{} does not say what it computes", shader.display());
    }
}

#[test]
fn the_readme_names_both_commands() {
    let readme = fs::read_to_string(root("README.md")).unwrap();
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md does not name `{command}`");
        let makefile = fs::read_to_string(root("Makefile")).unwrap();
        let target = format!("\n{}:", command.trim_start_matches("make "));
        assert!(makefile.contains(&target), "the Makefile has no target for `{command}`");
    }
}
