//! The command, as a user types it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PTX: &str = ".version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 .ptr .align 1 from, .param .u64 to, .param .f32 factor, .param .u32 count)
.maxntid 64, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %d<6>;
    ld.param.u64 %d1, [from];
    ld.param.u64 %d2, [to];
    ld.param.f32 %r1, [factor];
    ld.param.u32 %r2, [count];
    mov.u32 %r3, %tid.x;
    setp.ge.u32 %p1, %r3, %r2;
    @%p1 bra done;
    mad.wide.u32 %d3, %r3, 4, %d1;
    mad.wide.u32 %d4, %r3, 4, %d2;
    ld.global.f32 %r4, [%d3];
    mul.f32 %r4, %r4, %r1;
    st.global.f32 [%d4], %r4;
done:
    ret;
}
.visible .entry strange() { frobnicate; ret; }
";

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ptx-on-cpu-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("kernels.ptx"), PTX).unwrap();
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptx-on-cpu")).current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file of f32 as NumPy writes it.
fn npy(values: &[f32]) -> Vec<u8> {
    shaped(values, &format!("{},", values.len()))
}

fn shaped(values: &[f32], shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[test]
fn kernels_are_listed() {
    let folder = folder("list");
    let output = run(&folder, &["list", "kernels.ptx"]);
    let listed = text(&output.stdout);
    assert!(output.status.success(), "{listed}{}", text(&output.stderr));
    for expected in
        ["scale\n", "parameter 2: f32, at 16", "a block at most: 64", "13, 0 of them not known", "1 of them not known"]
    {
        assert!(listed.contains(expected), "{expected}: {listed}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_kernel_runs_and_its_faults_are_told() {
    let folder = folder("run");
    std::fs::write(folder.join("in.npy"), npy(&[1.0, 2.0, -3.0])).unwrap();
    let launch = |kernel: &str, count: &str| {
        let scalar = format!("u32:{count}");
        let arguments = [
            "run",
            "kernels.ptx",
            kernel,
            "--grid",
            "1",
            "--block",
            "32",
            "--buffer",
            "f32:in.npy",
            "--buffer",
            "f32:4:out.npy",
            "--scalar",
            "f32:-2.5",
            "--scalar",
            &scalar,
            "--seed",
            "3",
            "--hazards",
            "--lines",
        ];
        run(&folder, &arguments)
    };
    let output = launch("scale", "3");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("4 bytes were never written"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("line 20: 1 of warps, 3 of threads"), "{}", text(&output.stdout));
    let written = std::fs::read(folder.join("out.npy")).unwrap();
    let values: Vec<f32> =
        written[written.len() - 16..].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(values[..3], [-2.5, -5.0, 7.5]);
    assert!(values[3].is_nan());
    let output = launch("scale", "4");
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("kernel scale, block (0, 0, 0), warp 0, lane 3, PTX line 19"), "{told}");
    for (arguments, expected) in [
        (vec!["run", "kernels.ptx", "none", "--grid", "1", "--block", "1"], "no kernel none"),
        (vec!["run", "other.ptx", "scale", "--grid", "1", "--block", "1"], "other.ptx"),
        (vec!["run", "kernels.ptx", "scale", "--grid", "1", "--block", "1"], "has 4 parameters"),
        (vec!["run", "kernels.ptx", "scale", "--grid", "1", "--block", "1", "--scalar", "f99:1"], "type f99"),
        (vec!["run", "kernels.ptx", "scale", "--grid", "1", "--block", "1", "--buffer", "f32:gone.npy"], "gone.npy"),
        (vec!["run", "kernels.ptx", "scale", "--grid", "x", "--block", "1"], "invalid"),
    ] {
        let output = run(&folder, &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
    }
    let output = run(&folder, &["run", "kernels.ptx", "strange", "--grid", "1", "--block", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("frobnicate is not known"), "{}", text(&output.stderr));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_closed_pipe_is_an_end() {
    let folder = folder("pipe");
    std::fs::write(folder.join("in.npy"), npy(&[1.0; 64])).unwrap();
    let launch = ["run", "kernels.ptx", "scale", "--grid", "1", "--block", "64", "--buffer", "f32:in.npy"];
    let rest = ["--buffer", "f32:64:out.npy", "--scalar", "f32:2", "--scalar", "u32:40", "--lines"];
    for arguments in [&["list", "kernels.ptx"][..], &[&launch[..], &rest].concat()] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-on-cpu"));
        let output = command.current_dir(&folder).args(arguments).stdout(writer).output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.success() && !told.contains("panicked"), "{arguments:?}: {told}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn counters_are_a_table_or_json() {
    let folder = folder("counters");
    std::fs::write(folder.join("in.npy"), npy(&[1.0; 64])).unwrap();
    let launch = |option: &str| {
        let arguments = ["run", "kernels.ptx", "scale", "--grid", "1", "--block", "64", "--buffer", "f32:in.npy"];
        let rest = ["--buffer", "f32:64:out.npy", "--scalar", "f32:2", "--scalar", "u32:40", option];
        let output = run(&folder, &[&arguments[..], &rest].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let table = launch("--counters");
    let line: Vec<&str> = table.lines().find(|line| line.starts_with("PTX:19")).unwrap().split_whitespace().collect();
    // Two warps, of whose lanes 40 read: five sectors.
    assert_eq!(line, ["PTX:19", "2", "5", "160"], "{table}");
    assert!(table.contains("1  divergent branches"), "{table}");
    assert!(!table.contains("conflicts"), "a column without numbers: {table}");
    let json: serde_json::Value = serde_json::from_str(&launch("--json")).unwrap();
    assert_eq!(json["total"]["load_sectors"], 5);
    assert_eq!(json["by_line"]["19"]["l2_bytes"], 160);
    let source = json["by_source"].as_array().unwrap().iter().find(|line| line["line"] == 21).unwrap();
    assert_eq!((&source["file"], &source["store_requests"]), (&"PTX".into(), &2.into()));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Triton's product by tensor maps in clusters of two, launched as its entry in the oracles' manifest says.
#[test]
fn tensor_maps_and_clusters_are_launched() {
    let folder = folder("tensormap");
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/fixtures/matmul_descriptor_nn_cluster_sm90.ptx.gz");
    let mut ptx = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(fixture).unwrap()).read_to_string(&mut ptx).unwrap();
    std::fs::write(folder.join("product.ptx"), ptx).unwrap();
    // Of -1, 0 and 1, so that each sum is small and a number of bf16.
    let (m, n, k) = (264, 136, 280);
    let a: Vec<f32> = (0..m * k).map(|at| ((at * at / 7) % 3) as f32 - 1.0).collect();
    let b: Vec<f32> = (0..k * n).map(|at| ((at * at / 5 + at) % 3) as f32 - 1.0).collect();
    std::fs::write(folder.join("a.npy"), shaped(&a, &format!("{m}, {k}"))).unwrap();
    std::fs::write(folder.join("b.npy"), shaped(&b, &format!("{k}, {n}"))).unwrap();
    let parameters = format!(
        "--tensormap bf16:a.npy:128x64:128 --scalar i32:{m} --scalar i32:{k} --scalar i64:{k} --scalar i64:1 \
         --tensormap bf16:b.npy:64x64:128 --scalar i32:{k} --scalar i32:{n} --scalar i64:{n} --scalar i64:1 \
         --tensormap bf16:{m}x{n}:128x64:128:c.npy --scalar i32:{m} --scalar i32:{n} --scalar i64:{n} --scalar i64:1 \
         --scalar i32:{k} --scalar i64:0 --scalar i64:0"
    );
    let launch = |cluster: &str| {
        let launch =
            "run product.ptx matmul_descriptor --grid 4,2 --block 128 --shared 98328 --seed 5 --late --hazards";
        let arguments = launch.split(' ').chain(["--cluster", cluster]).chain(parameters.split(' '));
        run(&folder, &arguments.collect::<Vec<_>>())
    };
    let output = launch("2");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let written = std::fs::read(folder.join("c.npy")).unwrap();
    let values = written[written.len() - 4 * m * n..].chunks(4);
    for (at, value) in values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).enumerate() {
        let (row, column) = (at / n, at % n);
        let expected: f32 = (0..k).map(|depth| a[row * k + depth] * b[depth * n + column]).sum();
        assert_eq!(value, expected, "row {row}, column {column}");
    }
    let output = launch("1");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cluster"), "{}", text(&output.stderr));
    std::fs::remove_dir_all(folder).unwrap();
}
