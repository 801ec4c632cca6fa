//! Ranges as a profiler sees them: a tool of a few lines of C, loaded as Nsight Systems is.

use std::fs;
use std::process::Command;

use super::SMALL;

/// What NVTX's headers demand of a tool: it asks for the table of the core module and sets push and pop. It also asks for all
/// other modules, as Nsight does, and for what is not there.
const TOOL: &str = r#"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef void (*function)(void);
struct callbacks { size_t size; int (*get)(int module, function*** table, unsigned* size); };
struct version { size_t size; uint32_t version, reserved; void (*set)(uint32_t); };
static FILE* out;
static int depth;
static int push(const char* name) { fprintf(out, "%*s%s\n", depth, "", name); return depth++; }
static int pop(void) { if (--depth == 0) fflush(out); return depth; }
__attribute__((visibility("default"))) int InitializeInjectionNvtx2(const void* (*table_of)(uint32_t)) {
    const struct callbacks* callbacks = table_of(1);
    const struct version* version = table_of(3);
    function** table;
    unsigned size = 0;
    if (table_of(2) || callbacks->size != sizeof *callbacks || version->size != sizeof *version || version->version != 3) return 0;
    version->set(3);
    for (int module = 2; module <= 6; module++)
        if (!callbacks->get(module, &table, &size) || table[0] || table[size]) return 0;
    if (callbacks->get(7, &table, &size) || !callbacks->get(1, &table, &size) || size != 16) return 0;
    *table[9] = (function)push;
    *table[11] = (function)pop;
    out = fopen(getenv("RANGES"), "w");
    return 1;
}
"#;

#[test]
fn a_tool_sees_step_pass_layer_and_operation() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("tool.c"), TOOL).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let compiled = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([path("tool.so"), path("tool.c")])
        .status()
        .unwrap_or_else(|error| panic!("{compiler}, which the emulator needs as well: {error}"));
    assert!(compiled.success());
    let status = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["bench", "train", "--steps", "1", "--quiet"])
        .args(SMALL)
        .env("NVTX_INJECTION64_PATH", path("tool.so"))
        .env("RANGES", path("ranges"))
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let ranges = fs::read_to_string(path("ranges")).unwrap();
    let step: Vec<&str> =
        ranges.lines().skip_while(|line| *line != "step 1").take_while(|line| *line != "step 2").collect();
    let at = |depth: usize| -> Vec<&str> {
        let indent = |line: &&str| line.len() - line.trim_start().len() == depth;
        step.iter().copied().filter(indent).map(str::trim_start).collect()
    };
    assert_eq!(at(0)[0], "step 1");
    let passes: Vec<&str> = at(1).into_iter().filter(|name| *name != "cross_entropy").collect();
    assert_eq!(passes, ["forward", "backward", "update"]);
    let layers: Vec<&str> = at(2).into_iter().filter(|name| name.starts_with("layer ")).collect();
    assert_eq!(layers, ["layer 0", "layer 1", "layer 2", "layer 2", "layer 1", "layer 0"]);
    assert_eq!(at(2).iter().filter(|name| **name == "adamw").count(), 1);
    assert_eq!(at(3).iter().filter(|name| **name == "attention").count(), 6, "three layers, there and back");
    assert_eq!(at(4), [""; 0], "nothing deeper");
}

#[test]
fn a_tool_that_is_not_there_changes_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["bench", "train", "--steps", "1", "--json"])
        .args(SMALL)
        .env("NVTX_INJECTION64_PATH", "/nowhere/tool.so")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/tool.so"), "said on stderr");
}
