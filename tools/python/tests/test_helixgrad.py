"""The installed module against the program that HELIXGRAD names: the same bits, and Python's manners."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest

import helixgrad

PROGRAM = os.environ.get("HELIXGRAD", "helixgrad")
SAMPLE = pathlib.Path(__file__).parents[3] / "sample" / "grch37_X_46M-56M.2bit"
CHROMOSOME = "X_46000001_56000000"
SIZES = "--k 3 --layers 2 --hidden 64 --heads 2 --intermediate 128".split()


def run(*arguments):
    return subprocess.run([PROGRAM, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.PIPE, text=True).stdout


def sequences(count, length):
    drawn = numpy.random.default_rng(1)
    return ["".join(drawn.choice(list("ACGT"), length + index % 7)) for index in range(count)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Models: of splice sites, of pairs, of numbers, and one without classes."""
    folder = tmp_path_factory.mktemp("models")
    letters = sequences(24, 40)
    for name, header, row, options in [
        ("sites", "sequence\tlabel", lambda i, s: f"{s}\t{['acceptor', 'donor', 'neither'][i % 3]}", ["--window", "40"]),
        ("numbers", "sequence\ty", lambda i, s: f"{s}\t{i / 7}", ["--task", "regression"]),
        ("pairs", "sequence1\tsequence2\tlabel", lambda i, s: f"{s}\t{s[::-1]}\t{i % 2}", ["--pairs"]),
    ]:
        table = folder / f"{name}.tsv"
        table.write_text("\n".join([header, *(row(i, s) for i, s in enumerate(letters)), ""]))
        sizes = [*SIZES, "--epochs", "1", "--batch", "8", "--learning-rate", "1e-2"]
        run("finetune", "--data", table, "--dev", table, *sizes, *options, "--out", folder / name)
    sizes = "--max-length 64 --tokens-per-step 256 --steps 1 --warmup 1".split()
    run("pretrain", "--genome", SAMPLE, *SIZES, *sizes, "--out", folder / "encoder")
    return folder


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences(30, 40))))
    return path


def test_vectors_have_the_bits_of_embed(folder, fasta, tmp_path):
    for name, options, keywords in [
        ("encoder", [], {}),
        ("encoder", ["--pool", "cls", "--layer", "1"], {"pool": "cls", "layer": 1}),
        ("sites", [], {}),
    ]:
        out = tmp_path / "x.npy"
        run("embed", "--model", folder / name, "--fasta", fasta, "--out", out, *options)
        expected = numpy.load(out)
        model = helixgrad.load(folder / name)
        found = model.embed(sequences(30, 40), **keywords)
        assert found.dtype == numpy.float32 and found.shape == (30, model.columns)
        assert found.tobytes() == expected.tobytes()
        for path in (fasta, str(fasta)):
            assert model.embed(path, **keywords).tobytes() == expected.tobytes()
        one = numpy.concatenate([model.embed([s], **keywords) for s in sequences(30, 40)])
        assert one.tobytes() == expected.tobytes()
        run("embed", "--model", folder / name, "--fasta", fasta, "--out", out, *options, "--rc")
        if name == "encoder":
            assert helixgrad.load(folder / name, rc=True).embed(fasta, **keywords).tobytes() == numpy.load(out).tobytes()


def test_predictions_have_the_bits_of_predict(folder, fasta):
    for name, key in [("sites", "probabilities"), ("numbers", "values")]:
        told = json.loads(run("predict", "--model", folder / name, "--fasta", fasta, "--json"))
        expected = numpy.array([row[key] for row in told["windows"]])
        for threads in (1, 2, None):
            model = helixgrad.load(folder / name, threads=threads)
            assert model.labels == told["labels"]
            found = model.predict(sequences(30, 40))
            assert found.dtype == numpy.float64 and found.tobytes() == expected.tobytes()
            assert model.predict(fasta).tobytes() == expected.tobytes()
            assert numpy.array_equal(model.predict(sequences(30, 40)[7:8]), expected[7:8])
    told = json.loads(run("predict", "--model", folder / "pairs", "--tsv", folder / "pairs.tsv", "--json"))
    model = helixgrad.load(folder / "pairs")
    found = model.predict([(s, s[::-1]) for s in sequences(24, 40)])
    assert numpy.array_equal(found, [row["probabilities"] for row in told["windows"]])
    assert (model.task, helixgrad.load(folder / "numbers").task) == ("single-label", "regression")
    assert helixgrad.load(folder / "encoder").task is None and helixgrad.load(folder / "encoder").labels == []


def test_variants_have_the_scores_of_the_command(folder, tmp_path):
    variants = []
    for start in range(1_000_000, 1_002_000, 97):
        base = run("genome", "extract", SAMPLE, f"{CHROMOSOME}:{start}-{start}").split("\n")[1].upper()
        variants.append((CHROMOSOME, start, base, "ACGT"["CGTA".index(base)]))
    vcf, out = tmp_path / "v.vcf", tmp_path / "o.vcf"
    rows = "".join(f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t.\n" for c, p, r, a in variants)
    vcf.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + rows)
    run("variants", "--model", folder / "sites", "--genome", SAMPLE, "--vcf", vcf, "--out", out)
    expected = []
    for number, line in enumerate(line for line in out.read_text().split("\n") if line and line[0] != "#"):
        for effect in line.split("\t")[7].removeprefix("HELIXGRAD=").split(","):
            allele, _, strand, *fields = effect.split("|")
            offsets = [float("nan") if field == "." else float(field) for field in fields[4:8]]
            expected.append((number, allele, strand, [float(field) for field in fields[:4]], offsets))
    model = helixgrad.load(folder / "sites", genome=SAMPLE)
    for given in (variants, ["-".join(map(str, variant)) for variant in variants]):
        found = model.variants(given)
        assert found["variant"].tolist() == [row[0] for row in expected]
        assert found["allele"] == [row[1] for row in expected] and found["strand"] == [row[2] for row in expected]
        assert numpy.array_equal(found["scores"], [row[3] for row in expected])
        assert numpy.array_equal(found["offsets"], [row[4] for row in expected], equal_nan=True)
        assert found["scores"].max() > 0 and found["skipped"] == [] and set(found["gene"]) == {None}
    found = model.variants([(CHROMOSOME, 1_000_000, variants[0][2], "<DEL>")])
    assert found["skipped"] == [(0, "<DEL>", "symbolic_allele")] and found["scores"].shape == (0, 4)
    with pytest.raises(ValueError, match="item 1: .* has REF"):
        model.variants([variants[0], (CHROMOSOME, 1_000_000, "ACGTACGTTTT", "A")])
    with pytest.raises(ValueError, match="a model without a genome"):
        helixgrad.load(folder / "sites").variants(variants)


def test_what_cannot_be_read_is_an_exception(folder, tmp_path):
    model = helixgrad.load(folder / "sites")
    for wrong, kind, text in [
        (["ACGT"], ValueError, "4 bases.*what to do"),
        (["ACXT"], ValueError, "item 0: 'X' at base 3"),
        ([""], ValueError, "item 0: an empty sequence"),
        ([7], TypeError, "item 0 is of type int"),
        (7, TypeError, "iter"),
        (b"ACGT", TypeError, "bytes"),
        (tmp_path / "nowhere.fa", OSError, "nowhere.fa"),
        (["\ud800"], UnicodeEncodeError, "surrogates"),
    ]:
        with pytest.raises(kind, match=f"(?s){text}"):
            model.predict(wrong)
    assert model.predict([]).shape == (0, 3) and model.embed([]).shape == (0, model.columns)
    for keywords, text in [({"pool": "max"}, "max"), ({"layer": 9}, "layer 9")]:
        with pytest.raises(ValueError, match=text):
            model.embed(["ACGTACGT"], **keywords)
    with pytest.raises(ValueError, match="no classes"):
        helixgrad.load(folder / "encoder").predict(["ACGTACGT"])
    with pytest.raises(TypeError, match="pair"):
        helixgrad.load(folder / "pairs").predict(["ACGTACGT"])
    with pytest.raises(ValueError, match="no such folder"):
        helixgrad.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="threads=0"):
        helixgrad.load(folder / "sites", threads=0)


def test_other_threads_run_while_a_model_computes(folder):
    """On one core, too: the lock is free."""
    model = helixgrad.load(folder / "encoder", threads=1)
    long = ["".join(numpy.random.default_rng(2).choice(list("ACGT"), 300_000))]
    ticks, over = [], threading.Event()

    def compute():
        model.embed(long)
        over.set()

    thread = threading.Thread(target=compute)
    began = time.monotonic()
    thread.start()
    while not over.is_set():
        ticks.append(time.monotonic())
        time.sleep(0.005)
    thread.join()
    took = time.monotonic() - began
    # With the lock held there would be none between the call and its end.
    assert took > 0.1 and len(ticks) > took / 0.05, (took, len(ticks))
    # Several at a time have the bits of one.
    expected, found = model.embed(sequences(9, 50)), [None] * 4

    def one(index):
        found[index] = model.embed(sequences(9, 50))

    threads = [threading.Thread(target=one, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(numpy.array_equal(each, expected) for each in found)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("call", ["embed(['ACGTTGCA' * 1000] * 2000)", "predict(['ACGTTGCA' * 6] * 500_000)"])
def test_ctrl_c_is_heard(folder, call):
    program = f"import helixgrad, sys; model = helixgrad.load({str(folder / 'sites')!r}); print('ready', flush=True); model.{call}"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    time.sleep(1)
    assert child.poll() is None, "too fast to be interrupted"
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, message = child.communicate(timeout=60)
    assert message.rstrip().endswith("KeyboardInterrupt") and time.monotonic() - began < 20, message


def test_types_and_docstrings_are_there():
    stubs = (pathlib.Path(__file__).parents[1] / "helixgrad.pyi").read_text()
    for name in ["load", "Model", "__version__"]:
        assert hasattr(helixgrad, name) and name in stubs
    for name in [name for name in dir(helixgrad.Model) if not name.startswith("_")]:
        assert f"def {name}(" in stubs and getattr(helixgrad.Model, name).__doc__, name
    assert helixgrad.load.__doc__.startswith("Reads a model") and "threads=None" in helixgrad.load.__text_signature__
    folder = pathlib.Path(helixgrad.__file__).parent
    assert (folder / "py.typed").is_file() and (folder / "__init__.pyi").is_file()
