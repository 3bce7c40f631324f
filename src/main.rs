//! The command line program: a thin user of the library, through its public names alone.
#![deny(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
