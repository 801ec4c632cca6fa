//! Completions and manual pages know every command and every option of the command line.

mod program;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use program::{Folder, helixgrad, json};

/// Every command and those below it, by the words that call it.
fn commands() -> Vec<Vec<String>> {
    fn collect(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
        for command in command.get_subcommands() {
            let words = [words, &[command.get_name().to_owned()]].concat();
            collect(command, &words, all);
            all.push(words);
        }
    }
    let mut all = Vec::new();
    collect(&helixgrad::cli::command(), &[], &mut all);
    assert!(all.len() > 30, "{all:?}");
    all
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = Folder::new();
    let out = folder.path("share/man/man1");
    let result = json(&["man", "--out", &out]);
    let all = commands();
    assert_eq!(result["pages"], all.len() + 1);
    assert_eq!(fs::read_dir(&out).unwrap().count(), all.len() + 1);
    for words in &all {
        let page = fs::read_to_string(format!("{out}/helixgrad-{}.1", words.join("-"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains("\\-\\-help"), "{words:?}: {page}");
    }
    let page = fs::read_to_string(format!("{out}/helixgrad-genome-pack.1")).unwrap();
    assert!(page.contains("helixgrad genome pack") || page.contains("helixgrad\\-genome\\-pack"), "{page}");
    let embed = fs::read_to_string(format!("{out}/helixgrad-embed.1")).unwrap();
    assert!(
        embed.contains("\\-\\-pool") && embed.contains("\\-\\-threads"),
        "options of the command and of every command"
    );
    // Once more, over the old ones.
    json(&["man", "--out", &out]);
    // man itself finds no fault with them.
    let groff =
        Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(format!("{out}/helixgrad-finetune.1")).output();
    match groff {
        Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{output:?}"),
        Err(_) => eprintln!("skipped: no groff here to read the pages"),
    }
}

#[test]
fn every_shell_completes_every_command() {
    let all = commands();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = helixgrad(&["completions", shell]);
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        for word in all.iter().flatten() {
            assert!(script.contains(word.as_str()), "{shell}: {word}");
        }
        // Fish writes options without their hyphens.
        for option in ["max-sequences", "attention-dropout", "threads"] {
            assert!(script.contains(option), "{shell}: {option}");
        }
        // What is here can parse its own.
        let check = match shell {
            "bash" | "zsh" => [shell, "-n"],
            "fish" => [shell, "--no-execute"],
            _ => continue,
        };
        match Command::new(check[0]).arg(check[1]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(mut child) => {
                child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            }
            Err(_) => eprintln!("skipped: no {shell} here to parse its completions"),
        }
    }
    assert_eq!(helixgrad(&["completions", "cmd.exe"]).status.code(), Some(2));
}

/// In a shell of one's own, as a user has them.
#[test]
fn bash_completes_a_command_and_an_option() {
    let script = "source <(\"$0\" completions bash); \
        COMP_WORDS=(helixgrad ser); COMP_CWORD=1; _helixgrad helixgrad ser helixgrad; echo \"${COMPREPLY[@]}\"; \
        COMP_WORDS=(helixgrad serve --max-b); COMP_CWORD=2; _helixgrad helixgrad --max-b serve; echo \"${COMPREPLY[@]}\"";
    match Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_helixgrad")]).output() {
        Ok(output) => {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "serve\n--max-body --max-bases\n", "{output:?}")
        }
        Err(_) => eprintln!("skipped: no bash here"),
    }
}
