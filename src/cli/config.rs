//! `--config file.toml`: any option of the command, overridden by the command line. `--resume` reads the options that the
//! run was started with in the same way.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use serde::Serialize;

use super::Common;
use crate::inference::scan::WORKING_FOLDER;
use crate::inference::shard::Shard;
use crate::inference::variants::working_folder;
use crate::small_file;
use crate::{Error, Result};

/// A command line with the options of a file in it.
pub struct Merged {
    /// The command line.
    pub arguments: Vec<OsString>,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The names of the options that come from it.
    pub inserted: Vec<String>,
}

/// What clap has against a value that stands in the file `path`, told as one of that file.
pub fn wrong_value(error: &clap::Error, path: &Path, inserted: &[String]) -> Option<Error> {
    let of = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // A conflict of two options names one, too, but no value.
    let (argument, value) = (of(ContextKind::InvalidArg)?, of(ContextKind::InvalidValue)?);
    let name = argument.strip_prefix("--")?.split([' ', '=']).next()?;
    if !inserted.iter().any(|of_file| of_file == name) {
        return None;
    }
    let known = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => format!("choose from {}", values.join(", ")),
        _ => error
            .source()
            .map_or_else(|| format!("give what {argument} takes"), |why| format!("{why}; give what {argument} takes")),
    };
    let found = format!("{value:?} is no value of this option");
    Some(Error::input(path, format!("key {name:?}"), found, known))
}

/// Inserts the options of the `--config` file behind the command's name, unless the command line sets them itself.
///
/// # Errors
/// [`Error::Input`] for a file that is no TOML or has an option that the command does not know.
pub fn merge(arguments: Vec<OsString>, cli: &clap::Command) -> Result<Merged> {
    let Some(path) = config_path(&arguments)? else {
        return Ok(Merged { arguments, file: None, inserted: Vec::new() });
    };
    let text = small_file::read(&path)?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Error::input(&path, "", format!("not valid TOML: {error}"), "write `option-name = value` lines")
    })?;

    let (command, position) = find_command(&arguments, cli);
    let given: Vec<String> = arguments.iter().filter_map(|argument| Some(as_option(argument)?.0)).collect();
    let (mut inserted, mut names) = (Vec::new(), Vec::new());
    for (key, value) in &table {
        let name = key.replace('_', "-");
        let options = command.get_arguments().chain(cli.get_arguments()).filter_map(|arg| arg.get_long());
        // A file does not name another one.
        let options: Vec<_> = options.filter(|option| *option != "config").collect();
        if !options.contains(&name.as_str()) {
            return Err(Error::input(
                &path,
                format!("key {key:?}"),
                format!("`{}` has no option --{name}", command.get_name()),
                format!("its options are: {}", options.join(", ")),
            ));
        }
        let arguments = as_arguments(&name, value, &path)?;
        if !given.contains(&name) {
            inserted.extend(arguments);
            names.push(name);
        }
    }
    let mut merged = arguments;
    merged.splice(position..position, inserted);
    Ok(Merged { arguments: merged, file: Some(path), inserted: names })
}

/// Writes the resolved options (the command's and the common ones) as TOML, to be read back with `--config`.
///
/// # Errors
/// [`Error::Failed`] if an option cannot be written as TOML.
pub fn resolved<T: Serialize>(args: &T, common: &Common) -> Result<String> {
    let failed = |error: toml::ser::Error| Error::Failed(format!("cannot write the configuration as TOML: {error}"));
    Ok(format!("{}{}", toml::to_string(common).map_err(failed)?, toml::to_string(args).map_err(failed)?))
}

/// The file that `--config` names; or, with `--resume`, the one in the folder that `--out` names or that is kept beside it.
fn config_path(arguments: &[OsString]) -> Result<Option<PathBuf>> {
    let value_of = |wanted: &str| {
        let options = arguments.iter().map(|argument| as_option(argument));
        let (position, value) = (0..).zip(options).find_map(|(position, option)| {
            let (name, value) = option?;
            (name == wanted).then_some((position, value))
        })?;
        value.or_else(|| arguments.get(position + 1).cloned()).map(PathBuf::from)
    };
    if let Some(path) = value_of("config") {
        return Ok(Some(path));
    }
    match value_of("out") {
        Some(out) if arguments.iter().any(|argument| argument == "--resume") => {
            if let Some(shard) = value_of("shard") {
                // A part that was not begun is begun, with the options that are given.
                let path = Shard::parse(&shard.to_string_lossy())?.folder(&out)?.join("config.toml");
                return Ok(path.is_file().then_some(path));
            }
            let folders = [out.join(WORKING_FOLDER), out.clone(), working_folder(&out)];
            let candidates = folders.map(|folder| folder.join("config.toml"));
            candidates.into_iter().find(|path| path.is_file()).map(Some).ok_or_else(|| {
                Error::usage(
                    format!("--resume, but {} holds nothing that was interrupted", out.display()),
                    "leave --resume out to begin anew, or name what was interrupted",
                )
            })
        }
        _ => Ok(None),
    }
}

/// The innermost command that is named on the command line, and the position after its name.
fn find_command<'a>(arguments: &[OsString], cli: &'a clap::Command) -> (&'a clap::Command, usize) {
    let (mut command, mut position) = (cli, 1);
    for (index, argument) in arguments.iter().enumerate().skip(1) {
        let Some(found) = argument.to_str().and_then(|name| command.find_subcommand(name)) else {
            continue;
        };
        (command, position) = (found, index + 1);
    }
    (command, position)
}

/// The name of an option, and its value if both are one word, as in `--out=DIR`. A value may be any bytes.
fn as_option(argument: &OsStr) -> Option<(String, Option<OsString>)> {
    let text = argument.to_string_lossy();
    let (name, value) = match text.strip_prefix("--")?.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text.strip_prefix("--")?, None),
    };
    #[cfg(unix)]
    let value = {
        use std::os::unix::ffi::OsStrExt;
        let bytes = argument.as_bytes().splitn(2, |&byte| byte == b'=').nth(1);
        value.and(bytes).map(|bytes| OsStr::from_bytes(bytes).to_owned())
    };
    #[cfg(not(unix))]
    let value = value.map(OsString::from);
    Some((name.to_owned(), value))
}

fn as_arguments(name: &str, value: &toml::Value, path: &Path) -> Result<Vec<OsString>> {
    let option = |text: String| OsString::from(format!("--{name}={text}"));
    Ok(match value {
        toml::Value::Boolean(true) => vec![OsString::from(format!("--{name}"))],
        toml::Value::Boolean(false) => vec![],
        toml::Value::String(text) => vec![option(text.clone())],
        toml::Value::Integer(number) => vec![option(number.to_string())],
        // With its point: 1.0 is a share, 1 a number.
        toml::Value::Float(number) => vec![option(format!("{number:?}"))],
        toml::Value::Array(items) => {
            let mut all = Vec::new();
            for item in items {
                all.extend(as_arguments(name, item, path)?);
            }
            all
        }
        other => {
            return Err(Error::input(
                path,
                format!("key {name:?}"),
                format!("a {} is no option value", other.type_str()),
                "use strings, numbers, booleans or arrays of them",
            ));
        }
    })
}
