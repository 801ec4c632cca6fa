//! The classes of a table as a model has them. Names decide wherever both have names: a number is a class's place in one list of
//! names, and the next list may have another order.

use std::path::Path;

use serde_json::Value;

use super::labelled::LabelledWindow;
use super::table::{Answers, Table, read_table};
use crate::{Error, Result, small_file};

/// The file beside a table that names its classes 0, 1, ... as `label_names`.
const DATASET_FILE: &str = "dataset.json";

/// The names of the classes 0, 1, ... of the tables in `folder`, by its `dataset.json`; none without such a file or such names.
///
/// # Errors
/// [`Error::Io`], or [`Error::Input`] for a file that is no JSON or has something else under `label_names`.
pub fn names_in(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(DATASET_FILE);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = small_file::read(&path)?;
    let wrong = |found: String| {
        let remedy = "write {\"label_names\": [\"...\", ...]}, the names of the classes 0, 1, ..., or remove the file";
        Error::input(&path, "", found, remedy)
    };
    let json: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("no JSON: {error}")))?;
    let Some(names) = json.get("label_names") else { return Ok(Vec::new()) };
    let names: Vec<String> =
        serde_json::from_value(names.clone()).map_err(|error| wrong(format!("label_names: {error}")))?;
    Ok(names.iter().map(|name| name.trim().to_owned()).collect())
}

/// As [`names_in`], of the folder that `table` lies in; standard input (`-`) lies in none.
///
/// # Errors
/// As [`names_in`].
pub fn names_beside(table: &Path) -> Result<Vec<String>> {
    match table == Path::new("-") {
        true => Ok(Vec::new()),
        false => names_in(table.parent().unwrap_or(Path::new(""))),
    }
}

/// Whether a model's classes have names: one that nobody named has `0` or transformers' `LABEL_0`.
pub fn are_names(labels: &[String]) -> bool {
    !labels.iter().all(|label| label.trim_start_matches("LABEL_").parse::<usize>().is_ok())
}

/// Reads a table of classes for a model whose classes are `labels`: its windows have the model's numbers, whatever the table's own
/// are. The table's classes are called as its rows call them; or, where rows have numbers, by `given`, and without these by the
/// [`dataset.json`](names_beside) beside it. A model without names takes the table's, in their order, and returns them. Where numbers
/// meet names, or numbers of one meet numbers of the other, they are taken as they are, and the log says so.
///
/// # Errors
/// As [`read_table`] and [`names_in`]; [`Error::Input`] with the line for a class that the model does not have.
pub fn read_for(
    path: &Path,
    answers: Answers,
    pairs: bool,
    labels: &[String],
    given: &[String],
) -> Result<(Table, Vec<String>)> {
    let own = if given.is_empty() { names_beside(path)? } else { given.to_vec() };
    if are_names(labels) {
        let mut table = read_table(path, answers, pairs, labels)?;
        // Rows that name their classes were looked up in the model's.
        match table.names.is_empty() {
            true => renumber(&mut table, path, &own, labels)?,
            false if !given.is_empty() => {
                tracing::warn!("{}: --labels has no effect: the rows name their classes themselves", path.display())
            }
            false => {}
        }
        check(&table, path, labels)?;
        return Ok((table, labels.to_vec()));
    }
    // As many as the model has outputs, or they are names of something else.
    let fits = own.len() == labels.len();
    if !fits && !given.is_empty() {
        let found = format!("--labels names {} classes, but the model has {}", given.len(), labels.len());
        return Err(Error::usage(found, "name them all, in the order of their numbers"));
    }
    let table = read_table(path, answers, pairs, if fits { &own } else { labels })?;
    check(&table, path, labels)?;
    if !fits {
        return Ok((table, labels.to_vec()));
    }
    tracing::info!("{}: the model's classes have no names; they are taken to be {}", path.display(), numbered(&own));
    Ok((table, own))
}

/// Every window's class is one of the model's.
fn check(table: &Table, path: &Path, labels: &[String]) -> Result<()> {
    let strange = |window: &LabelledWindow| window.classes().find(|class| *class as usize >= labels.len());
    match table.windows.iter().zip(&table.lines).find_map(|(window, line)| Some((strange(window)?, line))) {
        None => Ok(()),
        Some((class, line)) => {
            let found = format!("class {class}, but the model has {} classes, from 0", labels.len());
            Err(Error::input(
                path,
                format!("line {line}"),
                found,
                "use data with the model's classes, or name them: --labels",
            ))
        }
    }
}

/// Gives windows, whose classes are numbered as in `own`, the numbers that `labels` has for the same names.
///
/// # Errors
/// [`Error::Input`] with the line for a class that `own` or `labels` does not have.
pub fn renumber(table: &mut Table, path: &Path, own: &[String], labels: &[String]) -> Result<()> {
    if own.is_empty() {
        tracing::info!(
            "{}: classes have numbers there, and names in the model: {} (--labels names those of the table)",
            path.display(),
            numbered(labels)
        );
        return Ok(());
    }
    if own == labels {
        return Ok(());
    }
    for (window, line) in table.windows.iter_mut().zip(&table.lines) {
        window.renumber(|number| {
            let name = own.get(number);
            name.and_then(|name| labels.iter().position(|label| label == name)).ok_or_else(|| {
                let found = match name {
                    Some(name) => format!("class {number} ({name}), which is none of {}", labels.join(", ")),
                    None => format!("class {number}, where the names are {}", numbered(own)),
                };
                let remedy = "name the table's classes 0, 1, ... as the model calls them: --labels, or label_names in dataset.json";
                Error::input(path, format!("line {line}"), found, remedy)
            })
        })?;
    }
    tracing::info!("{}: classes are {} there, and go by these names", path.display(), numbered(own));
    Ok(())
}

fn numbered(names: &[String]) -> String {
    let names: Vec<String> = names.iter().enumerate().map(|(number, name)| format!("{number} {name}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_decide_wherever_they_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        fs::write(&path, "sequence,label\nACGT,0\nACCC,1\nAGGG,2\n").unwrap();
        let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let read = |labels: &str, given: &str| {
            let given = if given.is_empty() { Vec::new() } else { names(given) };
            let (table, labels) = read_for(&path, Answers::Class, false, &names(labels), &given)?;
            Ok::<_, Error>((table.windows.iter().map(|window| window.label).collect::<Vec<_>>(), labels.join(",")))
        };
        let of = |classes: [i32; 3], labels: &str| (classes.to_vec(), labels.to_owned());
        // Numbers that nobody names are the model's.
        assert_eq!(read("c,a,b", "").unwrap(), of([0, 1, 2], "c,a,b"));
        assert_eq!(read("c,a,b", "a,b,c").unwrap(), of([1, 2, 0], "c,a,b"));
        fs::write(folder.path().join("dataset.json"), r#"{"label_names": ["a", "b", "c"]}"#).unwrap();
        assert_eq!(read("c,a,b", "").unwrap(), of([1, 2, 0], "c,a,b"));
        assert_eq!(read("c,a,b", "b,a,c").unwrap(), of([2, 1, 0], "c,a,b"), "what is given goes before the file");
        assert_eq!(read("0,1,2", "").unwrap(), of([0, 1, 2], "a,b,c"), "a model without names takes them");
        let few = read("LABEL_0,LABEL_1", "").unwrap_err().to_string();
        assert!(few.contains("line 4: class 2, but the model has 2 classes"), "{few}");
        assert!(read("c,a", "").unwrap_err().to_string().contains("line 3: class 1 (b), which is none of c, a"));
        assert!(
            read("c,a,b", "a,b").unwrap_err().to_string().contains("line 4: class 2, where the names are 0 a, 1 b")
        );
        // Rows that name their classes need nobody else.
        fs::write(&path, "sequence,label\nACGT,b\nACCC,c\nAGGG,a\n").unwrap();
        assert_eq!(read("c,a,b", "").unwrap(), of([2, 0, 1], "c,a,b"));
        assert_eq!(read("0,1,2", "").unwrap(), of([1, 2, 0], "a,b,c"));
        assert_eq!(read("0,1,2", "c,b,a").unwrap(), of([1, 0, 2], "c,b,a"));
    }
}
