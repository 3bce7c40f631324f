//! Writes the JavaScript and TypeScript beside a WebAssembly module: `benben-bindgen MODULE FOLDER`.
//!
//! This is what the program `wasm-bindgen --target web` does, on the library that it is built from: compiled in
//! seconds, and held to one version by a lock file.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder] = arguments.as_slice() else {
        eprintln!("usage: benben-bindgen MODULE FOLDER");
        return ExitCode::FAILURE;
    };
    let written =
        wasm_bindgen_cli_support::Bindgen::new().input_path(module).out_name("benben").web(true).and_then(
            |bindgen| {
                bindgen
                    .omit_default_module_path(false)
                    .remove_name_section(true)
                    .remove_producers_section(true)
                    .typescript(true)
                    .generate(folder)
            },
        );
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benben-bindgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
