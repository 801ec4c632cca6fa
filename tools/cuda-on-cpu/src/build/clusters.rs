//! `__cluster_dims__` in a kernel's preprocessed text: an attribute of nvcc's, which C++ has no place for.
//!
//! ```text
//! __global__ void __cluster_dims__(2) pair(float* x) { ... }
//! EXPORT_KERNEL(pair)
//! ```
//!
//! loses the attribute, and where it is exported the kernel's entry gets `{2, 1, 1}`; one without it gets `{1, 1, 1}`.

use super::rewrite::{is_word, matching_parenthesis, place};
use std::collections::BTreeMap;

/// What `__cluster_dims__` expands to (core.h).
const MARK: &str = "cuda_on_cpu_cluster_dims";
/// Where the entry of a kernel wants its cluster (core.h).
const WANTED: &str = "cuda_on_cpu_cluster_of";

/// The text with its clusters moved, line for line.
///
/// Fails, with file and line, on an attribute that belongs to no kernel.
pub(crate) fn rewrite(text: &str) -> Result<String, String> {
    let mut clusters = BTreeMap::new();
    let text = replace(text, MARK, |dims, position, rest| {
        let fail = || format!("{}: cannot find the kernel of this __cluster_dims__", place(text, position));
        let mut sides: Vec<&str> = dims.split(',').map(str::trim).collect();
        sides.resize(3, "1");
        clusters.insert(kernel_name(rest).ok_or_else(fail)?.to_owned(), sides.join(", "));
        Ok("\n".repeat(dims.matches('\n').count()))
    })?;
    replace(&text, WANTED, |kernel, _, _| {
        let name = kernel.split('<').next().unwrap_or_default().trim();
        Ok(clusters.get(name).cloned().unwrap_or_else(|| "1, 1, 1".into()))
    })
}

/// Replaces every `name(...)` by what `replacement` makes of the arguments, the position and the text behind.
fn replace(
    text: &str,
    name: &str,
    mut replacement: impl FnMut(&str, usize, &str) -> Result<String, String>,
) -> Result<String, String> {
    let mut output = String::with_capacity(text.len());
    let mut copied = 0;
    for (start, _) in text.match_indices(name) {
        let open = start + name.len();
        let close =
            matching_parenthesis(text, open).ok_or_else(|| format!("{}: {name} without an end", place(text, start)))?;
        output += &text[copied..start];
        output += &replacement(&text[open + 1..close], start, &text[close + 1..])?;
        copied = close + 1;
    }
    Ok(output + &text[copied..])
}

/// The name before the parameters, behind other attributes.
fn kernel_name(declaration: &str) -> Option<&str> {
    let mut from = 0;
    loop {
        let open = from + declaration[from..].find(['(', ';', '{'])?;
        let word = declaration[from..open].trim_end();
        let name = &word[word.rfind(|c| !is_word(c)).map_or(0, |before| before + 1)..];
        if !declaration[open..].starts_with('(') || name.is_empty() {
            return None;
        }
        if !name.starts_with("__") {
            return Some(name);
        }
        from = matching_parenthesis(declaration, open)? + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_moves_to_its_kernels_entry() {
        let text = format!(
            "extern \"C\" void {MARK}(2) __attribute__((noinline)) pair(int x) {{}}\n{MARK}(N + 1, 2, 1) void wide(int x);\n\
             a = {{{WANTED}(pair)}}; b = {{{WANTED}(wide<int, 4>)}}; c = {{{WANTED}(alone)}};"
        );
        assert_eq!(
            rewrite(&text).unwrap(),
            "extern \"C\" void  __attribute__((noinline)) pair(int x) {}\n void wide(int x);\n\
             a = {2, 1, 1}; b = {N + 1, 2, 1}; c = {1, 1, 1};"
        );
    }

    #[test]
    fn an_attribute_of_nothing_is_refused_with_its_line() {
        let text = format!("# 7 \"k.cu\"\n{MARK}(2);\n");
        assert_eq!(rewrite(&text).unwrap_err(), "k.cu:7: cannot find the kernel of this __cluster_dims__");
    }
}
