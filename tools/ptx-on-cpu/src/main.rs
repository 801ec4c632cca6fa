//! `ptx-on-cpu`: lists and runs the kernels of a PTX file.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
