//! What happens to a kernel's preprocessed text before it is compiled.
//!
//! A `__shared__` variable belongs to a block, and blocks run one after the other on an OS thread and several at a
//! time. C++ has no such storage class, so
//!
//! ```text
//! __shared__ float tile[8][33];
//! ```
//!
//! becomes a type, a constant that describes the variable, and a reference to where the running block has it:
//!
//! ```text
//! typedef float tile_shared_type[8][33];
//! static const ::cuda_on_cpu_shared_variable tile_shared_site = {"tile", sizeof(tile_shared_type), ...};
//! auto& tile = ::cuda_on_cpu::shared<tile_shared_type>(tile_shared_site);
//! ```

use std::path::PathBuf;

/// What `__shared__` expands to (core.h).
const MARK: &str = "cuda_on_cpu_shared_declaration";
/// What `EXPORT_KERNEL` defines (export.h).
const ENTRY: &str = "const cuda_on_cpu_entry cuda_on_cpu_entry_";

/// The names of the exported kernels.
pub(crate) fn kernels(text: &str) -> Vec<String> {
    let name = |part: &str| part.chars().take_while(|c| is_word(*c)).collect();
    text.split(ENTRY).skip(1).map(name).collect()
}

/// The files that the text came from, system headers aside.
pub(crate) fn sources(text: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = text
        .lines()
        .filter_map(line_marker)
        .filter(|(_, file, flags)| {
            !flags.split(' ').any(|flag| flag == "3") && !file.starts_with('<') && !file.ends_with('/')
        })
        .map(|(_, file, _)| PathBuf::from(file))
        .collect();
    files.sort();
    files.dedup();
    files
}

/// The text with its `__shared__` declarations replaced, line for line.
///
/// Fails, with file and line, on a declaration that shared memory cannot have.
pub(crate) fn rewrite(text: &str) -> Result<String, String> {
    let mut output = String::with_capacity(text.len() + 4096);
    let mut copied = 0;
    for (mark, _) in text.match_indices(MARK) {
        let start = declaration_start(text, mark);
        let fail = |what: &str| Err(format!("{}: {what}", place(text, mark)));
        let Some(end) = top_level(&text[mark..], ';').first().map(|end| mark + end) else {
            return fail("a __shared__ declaration without an end");
        };
        let declaration = format!("{} {}", &text[start..mark], &text[mark + MARK.len()..end]);
        match replace(&declaration) {
            Ok(replacement) => {
                output += &text[copied..start];
                output += &replacement;
            }
            Err(what) => return fail(&what),
        }
        copied = end + 1;
    }
    Ok(output + &text[copied..])
}

/// Where the statement begins that holds the mark: specifiers may stand before it.
fn declaration_start(text: &str, mark: usize) -> usize {
    let before = &text[..mark];
    let statement = before.rfind([';', '{', '}']).map_or(0, |end| end + 1);
    match before[statement..].rfind("\n#") {
        Some(marker) => {
            before[statement + marker + 1..].find('\n').map_or(mark, |end| statement + marker + 1 + end + 1)
        }
        None => statement,
    }
}

fn replace(declaration: &str) -> Result<String, String> {
    let (declaration, alignments) = take_alignments(declaration)?;
    let words: Vec<&str> = declaration.split(|c| !is_word(c)).collect();
    if words.contains(&"extern") {
        return Err("extern __shared__ is not supported: write DYNAMIC_SHARED(type, name)".into());
    }
    if !top_level(&declaration, '=').is_empty() {
        return Err("a __shared__ variable cannot have an initialiser".into());
    }
    let declaration = remove_word(&declaration, "static");
    let commas = top_level(&declaration, ',');
    let mut parts: Vec<&str> = Vec::new();
    let mut from = 0;
    for comma in commas.into_iter().chain([declaration.len()]) {
        parts.push(&declaration[from..comma]);
        from = comma + 1;
    }
    let (name_start, _) = declared_name(parts[0])?;
    let type_end = parts[0][..name_start].trim_end_matches(['*', '&', ' ', '\n', '(']).len();
    let (specifiers, first) = parts[0].split_at(type_end);
    parts[0] = first;
    let alignment =
        alignments.iter().fold(String::from("1"), |all, one| format!("::cuda_on_cpu::larger({all}, {one})"));
    parts.iter().map(|declarator| variable(specifiers, declarator, &alignment)).collect()
}

fn variable(specifiers: &str, declarator: &str, alignment: &str) -> Result<String, String> {
    let (start, end) = declared_name(declarator)?;
    let name = &declarator[start..end];
    let (kind, site) = (format!("{name}_shared_type"), format!("{name}_shared_site"));
    let (before, after) = (&declarator[..start], &declarator[end..]);
    Ok(format!(
        "typedef {specifiers} {before}{kind}{after}; static const ::cuda_on_cpu_shared_variable {site} = {{\"{name}\", \
         sizeof({kind}), ::cuda_on_cpu::larger(alignof({kind}), {alignment}), __builtin_FILE(), __builtin_LINE()}}; \
         [[maybe_unused]] auto& {name} = ::cuda_on_cpu::shared<{kind}>({site});"
    ))
}

/// The last word before the array bounds.
fn declared_name(declarator: &str) -> Result<(usize, usize), String> {
    let bounds = top_level(declarator, '[').first().copied().unwrap_or(declarator.len());
    let end = declarator[..bounds].trim_end().len();
    let start = declarator[..end].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
    if start == end {
        return Err(format!("cannot find the name in the __shared__ declaration `{}`", declarator.trim()));
    }
    Ok((start, end))
}

/// Takes `alignas(...)` out: a typedef cannot have it.
fn take_alignments(declaration: &str) -> Result<(String, Vec<String>), String> {
    let mut rest = declaration.to_string();
    let mut alignments = Vec::new();
    while let Some(start) = rest.find("alignas") {
        let open = rest[start..].find('(').map(|at| start + at);
        let close = open.and_then(|open| matching_parenthesis(&rest, open));
        let (Some(open), Some(close)) = (open, close) else {
            return Err("alignas without its parentheses".into());
        };
        alignments.push(format!("size_t({})", &rest[open + 1..close]));
        rest.replace_range(start..=close, " ");
    }
    Ok((rest, alignments))
}

pub(super) fn matching_parenthesis(text: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (index, character) in text[open..].char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + index);
        }
    }
    None
}

/// Where `wanted` stands outside all brackets. Angle brackets count outside the others only, where they are not
/// comparisons.
fn top_level(text: &str, wanted: char) -> Vec<usize> {
    let (mut depth, mut angles) = (0, 0);
    let mut found = Vec::new();
    for (index, character) in text.char_indices() {
        if character == wanted && depth == 0 && angles == 0 {
            found.push(index);
        }
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '<' if depth == 0 => angles += 1,
            '>' if depth == 0 => angles -= 1,
            _ => {}
        }
    }
    found
}

fn remove_word(text: &str, word: &str) -> String {
    text.split_inclusive(|c| !is_word(c)).filter(|part| part.trim_end_matches(|c| !is_word(c)) != word).collect()
}

pub(super) fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// `# line "file" flags`, as preprocessors write it.
fn line_marker(line: &str) -> Option<(u32, &str, &str)> {
    let (number, rest) = line.strip_prefix("# ")?.split_once(' ')?;
    let (file, flags) = rest.strip_prefix('"')?.split_once('"')?;
    Some((number.parse().ok()?, file, flags))
}

/// The file and line of a position.
pub(super) fn place(text: &str, position: usize) -> String {
    let lines: Vec<&str> = text[..position].split('\n').collect();
    let marker =
        lines.iter().enumerate().rev().find_map(|(index, line)| line_marker(line).map(|marker| (index, marker)));
    match marker {
        Some((index, (line, file, _))) => format!("{file}:{}", line as usize + lines.len() - index - 2),
        None => format!("line {}", lines.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(declaration: &str) -> String {
        rewrite(&format!("{{ {} }}", declaration.replace("__shared__", MARK))).unwrap()
    }

    #[test]
    fn a_declaration_becomes_a_type_a_site_and_a_reference() {
        let text = only("__shared__ float tile[8][33];");
        assert!(
            text.contains("typedef  float tile_shared_type[8][33];")
                || text.contains("float  tile_shared_type[8][33];"),
            "{text}"
        );
        assert!(text.contains("auto& tile = ::cuda_on_cpu::shared<tile_shared_type>(tile_shared_site);"), "{text}");
        assert!(text.contains("{\"tile\", sizeof(tile_shared_type)"), "{text}");
    }

    #[test]
    fn several_variables_pointers_templates_and_alignment() {
        let text = only("static __shared__ alignas(16) Pack<T, 8> a[N < 4 ? 1 : 2], b;");
        assert!(text.contains("Pack<T, 8>  a_shared_type[N < 4 ? 1 : 2];"), "{text}");
        assert!(text.contains("Pack<T, 8>  b_shared_type;"), "{text}");
        assert!(text.contains("larger(1, size_t(16))"), "{text}");
        assert!(!text.contains("static  ") && !text.contains("alignas"), "{text}");
        let text = only("alignas(128) __shared__ float* p;");
        assert!(text.contains("* p_shared_type;") || text.contains("*p_shared_type;"), "{text}");
    }

    #[test]
    fn what_shared_memory_cannot_have_is_refused_with_its_line() {
        let text = |declaration: &str| format!("# 10 \"k.cu\"\nvoid k() {{\n {MARK} {declaration}\n}}");
        assert_eq!(
            rewrite(&text("float x = 1;")).unwrap_err(),
            "k.cu:11: a __shared__ variable cannot have an initialiser"
        );
        let error = rewrite(&text("float x[];").replace(MARK, &format!("extern {MARK}"))).unwrap_err();
        assert_eq!(error, "k.cu:11: extern __shared__ is not supported: write DYNAMIC_SHARED(type, name)");
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = format!("a;\n# 5 \"k.cu\"\n{MARK} float x[2];\nint y;\n");
        let rewritten = rewrite(&text).unwrap();
        assert_eq!(rewritten.lines().count(), text.lines().count());
        assert!(rewritten.starts_with("a;\n# 5 \"k.cu\"\n"), "{rewritten}");
    }

    #[test]
    fn kernels_and_sources_are_read_from_the_text() {
        let text = "# 1 \"k.cu\"\n# 1 \"/usr/include/math.h\" 1 3 4\n# 1 \"<built-in>\"\nextern const cuda_on_cpu_entry cuda_on_cpu_entry_scale_f32 = {};";
        assert_eq!(kernels(text), ["scale_f32"]);
        assert_eq!(sources(text), [PathBuf::from("k.cu")]);
    }
}
