//! Compiles `.cu` files for the CPU, from a build script.
//!
//! Each file is preprocessed, its `__shared__` declarations are turned into references to storage of the running block
//! (see rewrite.rs), and the result is compiled as C++17. A file whose preprocessed text has not changed is not
//! compiled again.

mod clusters;
mod rewrite;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
/// Only for the CPU: stands in for headers of the toolkit and of the C library.
const HOST_INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/host");

/// What the kernels are compiled with, besides `-std=c++17 -O2 -g`.
const FLAGS: [&str; 10] = [
    "-fno-strict-aliasing",
    // One rounding per operation on every machine: aarch64 would contract by default, x86_64 cannot.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
    // Parameters aligned to 64 bytes, as tensor maps are, were passed differently once: nobody else calls a kernel.
    "-Wno-psabi",
    "-ftls-model=initial-exec",
    // Reports go to the functions in sanitize.rs, not to libubsan.
    "-fsanitize=alignment,bounds,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
];

/// Why kernels did not compile.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Compiles `files` into a static library that the crate links, and writes the registry that
/// `include_kernels!` brings in. `include_dirs` are searched for headers,
/// `defines` are macros with their values (empty for none). Only for build scripts: it reads `OUT_DIR` and prints
/// Cargo's directives, with one `rerun-if-changed` for each file and header.
///
/// # Errors
/// A file that cannot be read or does not compile, two kernels of one name, a `__shared__` declaration that is not
/// supported.
pub fn compile(
    files: &[impl AsRef<Path>],
    include_dirs: &[impl AsRef<Path>],
    defines: &[(&str, &str)],
) -> Result<(), Error> {
    let out = PathBuf::from(
        env::var_os("OUT_DIR").ok_or_else(|| Error("OUT_DIR is not set: call this from a build script".into()))?,
    );
    let compiler = Compiler::new(include_dirs, defines);
    let mut sources = BTreeSet::from([PathBuf::from(INCLUDE)]);
    let mut kernels = BTreeSet::new();
    let mut objects = Vec::new();
    for file in files {
        let file = file.as_ref();
        let text = compiler.preprocess(file)?;
        sources.extend(rewrite::sources(&text));
        for kernel in rewrite::kernels(&text) {
            if !kernels.insert(kernel.clone()) {
                return Err(Error(format!("{}: kernel {kernel} is exported twice; rename one", file.display())));
            }
        }
        let text = rewrite::rewrite(&text).and_then(|text| clusters::rewrite(&text)).map_err(Error)?;
        objects.push(compiler.object(file, &text, &out)?);
    }
    archive(&objects)?;
    write(&out.join("cuda_on_cpu_kernels.rs"), &registry(&kernels))?;
    for source in sources {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    Ok(())
}

struct Compiler {
    include_dirs: Vec<PathBuf>,
    defines: Vec<(String, String)>,
}

impl Compiler {
    fn new(include_dirs: &[impl AsRef<Path>], defines: &[(&str, &str)]) -> Compiler {
        let own = [INCLUDE, HOST_INCLUDE].map(PathBuf::from);
        Compiler {
            include_dirs: own.into_iter().chain(include_dirs.iter().map(|dir| dir.as_ref().into())).collect(),
            defines: defines.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        }
    }

    /// C++17 at -O2 whatever Cargo's profile: an unoptimised kernel is too slow to test.
    fn base(&self) -> cc::Build {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .debug(true)
            .warnings(false)
            .cargo_warnings(true)
            .cargo_metadata(false);
        for flag in FLAGS {
            build.flag(flag);
        }
        build
    }

    fn preprocess(&self, file: &Path) -> Result<String, Error> {
        let mut build = self.base();
        build.define("CUDA_ON_CPU_BUILD", None).includes(&self.include_dirs);
        for (name, value) in &self.defines {
            build.define(name, if value.is_empty() { None } else { Some(value.as_str()) });
        }
        let mut command = build.try_get_compiler().map_err(|error| Error(error.to_string()))?.to_command();
        command.args(["-E", "-x", "c++", "-include", "cuda_on_cpu.h"]).arg(file);
        let output = command.output().map_err(|error| {
            Error(format!(
                "{}: cannot run {:?} ({error}); install g++ or clang++, or set CXX",
                file.display(),
                command.get_program()
            ))
        })?;
        if !output.status.success() {
            return Err(Error(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        String::from_utf8(output.stdout).map_err(|_| Error(format!("{}: not UTF-8", file.display())))
    }

    /// The object file for a preprocessed text, from the run before if that had the same.
    fn object(&self, file: &Path, text: &str, out: &Path) -> Result<PathBuf, Error> {
        let stem = file.file_stem().unwrap_or(OsStr::new("kernel")).to_string_lossy().into_owned();
        let mut build = self.base();
        let tool = build.try_get_compiler().map_err(|error| Error(error.to_string()))?;
        let mut hasher = DefaultHasher::new();
        (text, tool.path(), tool.args()).hash(&mut hasher);
        let source = out.join(format!("{stem}-{:016x}.ii", hasher.finish()));
        let note = source.with_extension("object");
        if let Some(object) = fs::read_to_string(&note).ok().map(PathBuf::from).filter(|object| object.exists()) {
            return Ok(object);
        }
        write(&source, text)?;
        build.flag("-xc++-cpp-output").file(&source);
        if tool.is_like_gnu() {
            // As with nvcc, nothing but the kernels leaves a file: two may use one name for different helpers.
            build.flag("-fwhole-program");
        }
        let objects = build.try_compile_intermediates().map_err(|error| Error(error.to_string()))?;
        let object = objects.into_iter().next().ok_or_else(|| Error(format!("{}: no object file", file.display())))?;
        write(&note, &object.to_string_lossy())?;
        Ok(object)
    }
}

fn archive(objects: &[PathBuf]) -> Result<(), Error> {
    let package = env::var("CARGO_PKG_NAME").unwrap_or_default().replace('-', "_");
    let mut build = cc::Build::new();
    build.cpp(true).objects(objects);
    build.try_compile(&format!("{package}_cuda_on_cpu")).map_err(|error| Error(error.to_string()))
}

/// The Rust source of the registry.
fn registry(kernels: &BTreeSet<String>) -> String {
    let mut source = String::from("unsafe extern \"C\" {\n");
    for kernel in kernels {
        source += &format!(
            "    #[allow(non_upper_case_globals)]\n    static cuda_on_cpu_entry_{kernel}: ::cuda_on_cpu::Entry;\n"
        );
    }
    source +=
        "}\n\n/// The kernels, in the order of their names.\npub fn registry() -> &'static [::cuda_on_cpu::Kernel] {\n";
    source += &format!("    static KERNELS: [::cuda_on_cpu::Kernel; {}] = [\n", kernels.len());
    for kernel in kernels {
        source += &format!(
            "        // SAFETY: `EXPORT_KERNEL` defines it.\n        unsafe {{ ::cuda_on_cpu::Kernel::new(&cuda_on_cpu_entry_{kernel}) }},\n"
        );
    }
    source + "    ];\n    &KERNELS\n}\n"
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|error: io::Error| Error(format!("{}: {error}", path.display())))
}
