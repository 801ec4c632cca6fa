//! What is measured, from the command line, beside criterion's own options: `cargo bench --bench layernorm -- --quick --tokens 8192`.

use std::path::PathBuf;
use std::process::Command;

use clap::{CommandFactory, Parser};

/// Where the options lie between the process that read them and the one that runs the bench.
const HANDED_OVER: &str = "HELIXGRAD_BENCH_HANDED_OVER";

/// Options of every bench, beside criterion's.
#[derive(Parser, Debug)]
#[command(name = "helixgrad's benches", disable_help_flag = true, no_binary_name = true)]
pub struct Options {
    /// auto, cpu, or cuda[:N].
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// f32, or bf16 on a GPU (default there).
    #[arg(long)]
    pub dtype: Option<String>,
    /// Tokens (default: 65536 on a GPU, 4096 on the CPU).
    #[arg(long, value_parser = size)]
    pub tokens: Option<usize>,
    /// The model's width.
    #[arg(long, default_value = "768", value_parser = size)]
    pub hidden: usize,
    /// The width inside the feed-forward block.
    #[arg(long, default_value = "3072", value_parser = size)]
    pub intermediate: usize,
    /// Tokens that the model knows.
    #[arg(long, default_value = "4101", value_parser = size)]
    pub vocab: usize,
    /// Attention heads.
    #[arg(long, default_value = "12", value_parser = size)]
    pub heads: usize,
    /// Lengths of sequences for attention, with commas (default: 512,2048,16384 on a GPU, 128,512 on the CPU).
    #[arg(long, value_delimiter = ',', value_parser = size)]
    pub lengths: Vec<usize>,
    /// A file to which each row is added as a JSON object.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn size(text: &str) -> Result<usize, String> {
    let number = text.replace('_', "").parse().ok().filter(|size| (1..=1 << 24).contains(size));
    number.ok_or_else(|| "give a number from 1 to 16777216".into())
}

impl Options {
    /// Reads them. Criterion reads the command line of the process for itself and refuses what it does not know, so a process that is given
    /// options of ours starts itself again with the rest.
    pub fn parse_and_hand_over() -> Self {
        if let Ok(lines) = std::env::var(HANDED_OVER) {
            return Self::parse_from(lines.lines());
        }
        let (ours, rest) = split(std::env::args().skip(1));
        if rest.iter().any(|argument| argument == "--help" || argument == "-h") {
            println!("{}\nand criterion's:\n", Self::command().render_help());
        }
        let options = Self::parse_from(&ours);
        if ours.is_empty() {
            return options;
        }
        let program = std::env::current_exe().expect("a running program has a file");
        let status = Command::new(program).args(rest).env(HANDED_OVER, ours.join("\n")).status();
        match status {
            Ok(status) => std::process::exit(status.code().unwrap_or(1)),
            Err(error) => panic!("cannot start the bench again: {error}"),
        }
    }
}

/// Our options with their values, and the rest.
pub fn split(mut arguments: impl Iterator<Item = String>) -> (Vec<String>, Vec<String>) {
    let command = Options::command();
    let (mut ours, mut rest) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").map(|option| option.split('=').next().unwrap_or(option));
        let is_ours = name.is_some() && command.get_arguments().any(|known| known.get_long() == name);
        if !is_ours {
            rest.push(argument);
            continue;
        }
        let has_value = argument.contains('=');
        ours.push(argument);
        if !has_value {
            ours.extend(arguments.next());
        }
    }
    (ours, rest)
}
