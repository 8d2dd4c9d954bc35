"""The command: help worth reading, errors in one line, a run from a recipe and from its own YAML."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mrm import cli, recipes
from mrm.cli import data_preparation, model_training
from mrm.cli.command import Command
from mrm.cli.options import fields_of, options_of
from mrm.cli.recipe_options import kind_of
from mrm.corpora import CORPORA, Options
from tests.support.commands import run_cli


def test_help_lists_every_command(capsys):
    code, out, _ = run_cli(capsys, "--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert f"mrm {name} " in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run_cli(capsys, *command.split(), "--help")
    assert code == 0
    assert f"usage: mrm {command}" in out
    for slip in ("{None}", "(default: )", "(default: None)", "type: ignore"):
        assert slip not in out


def test_what_goes_without_an_option_has_a_name(capsys):
    for command, words in {
        "compare": "FIRST SECOND --out",
        "predict": "MODEL PATHS ...",
        "recipes": "mrm recipes [NAME]",
        "benchmark": "SUITE",
    }.items():
        assert words in run_cli(capsys, command, "--help")[1].splitlines()[0]


@pytest.mark.parametrize(
    ("command", "recipe"), [(c, r) for c, (_, table) in model_training.RECIPES.items() for r in table]
)
def test_every_recipe_prints_whole_and_explains_its_options(capsys, command, recipe):
    code, out, _ = run_cli(capsys, "recipes", recipe)
    assert code == 0
    assert "training:" in out
    code, out, _ = run_cli(capsys, command, recipe, "--help")
    assert code == 0
    assert "--max-steps" in out
    assert "--seed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["doctor", "/", "mimik"], "unknown recipe 'mimik'; choose from mimic"),
        (["benchmark", "nhi", "--out", "b"], "unknown suite 'nhi'; choose from nih"),
        (["recipes", "nhi-1"], "unknown recipe 'nhi-1'; choose from mimic"),
        (["pretrian"], "unknown command 'pretrian'; did you mean 'pretrain'?"),
        (["pretrain", "mimik", "--records", "a", "--out", "b"], "unknown recipe 'mimik'; choose from mimic"),
        (
            ["pretrain", "tiny", "--records", "none.csv", "--out", "{tmp}/run"],
            "--records none.csv: no such file or folder",
        ),
        (["evaluate", "nowhere", "--records", "a", "--out", "b"], "MODEL nowhere: no such file or folder"),
        (["predict", "{tmp}", "none.png", "--out", "a.csv"], "PATHS none.png: no such file or folder"),
        (["embed", "{tmp}", "{tmp}", "--out", "emb"], "choose a name for --out that ends in .npy, .parquet\n"),
        (["similar", "{tmp}", "--index", "{tmp}", "--out", "b.xls"], "unknown suffix '.xls'; choose a name for --out"),
        (["pretrain", "--config", "none.yaml"], "--config none.yaml: no such file; give a YAML file"),
        (["pretrain", "--config", "{tmp}"], "is not a text file in UTF-8"),
        (["pretrain"], "give a recipe (mimic, tiny, small, small-next, mimic-next, mimic-modern) or --config FILE"),
        (["pretrain", "tiny", "--out", "b"], "missing: --records (see `mrm pretrain --help`)"),
        (["pretrain", "tiny", "--recrods", "a"], "unknown option --recrods; did you mean --records?"),
        (["pretrain", "tiny", "--lr", "1"], "unknown option --lr; did you mean --training.lr?"),
        (["pretrain", "tiny", "--training.lr", "fast"], "--training.lr: expected a number, found 'fast'"),
        (["pretrain", "tiny", "--seed", "0.5"], "--seed: expected a whole number, found '0.5'"),
        (
            ["finetune", "tiny", "--lr", "0.1"],
            "--lr: unknown value '0.1'; choose from recipe, auto; did you mean --training.lr?",
        ),
        (["finetune", "tiny", "--training.lr", "auto"], "expected a number, found 'auto'; did you mean --lr?"),
        (["finetune", "tiny", "--training.lr", "fast"], "--training.lr: expected a number, found 'fast' (see"),
        (["pretrain", "tiny", "--training.precision", "fp64"], "unknown value 'fp64'; choose from auto, fp32, bf16"),
        (["pretrain", "tiny", "--training.betas", "0.9"], "--training.betas: expected 2 arguments"),
        (["pretrain", "tiny", "--out"], "--out: expected one argument"),
        (["prepare", "imagenet", "--source", "{tmp}", "--out", "b"], "unknown corpus 'imagenet'; choose from nih"),
        (["prepare", "custom", "--columns", "File"], "--columns: expected NAME=VALUE, found 'File'"),
        (["pack", "none.csv", "--out", "b"], "RECORDS none.csv: no such file or folder"),
        (["compare", "a", "b", "c", "--out", "d"], "unexpected argument 'c'"),
        (["label", "none.csv", "--findings", "english", "--out", "b.csv"], "RECORDS none.csv: no such file or folder"),
        (
            ["label", "sample", "none.csv", "--out", "b.csv"],
            "LABELLED none.csv: no such file or folder (see `mrm label sample",
        ),
        (["label", "check", "/", "--out", "b"], "missing: --truth (see `mrm label check --help`)"),
    ],
)
def test_errors_are_one_line_and_exit_with_two(capsys, tmp_path, arguments, message):
    code, _, err = run_cli(capsys, *(a.replace("{tmp}", str(tmp_path)) for a in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("mrm: error: ")
    assert "Traceback" not in err


def test_a_place_that_cannot_be_written_to_is_one_line(capsys, phantoms, tmp_path):
    (tmp_path / "file").touch()
    file, out = str(phantoms / "records.csv"), str(tmp_path / "file" / "t.json")
    code, _, err = run_cli(capsys, "tokenizer", file, "--out", out)
    assert code == 2
    assert err.startswith("mrm: error: ")
    assert err.count("\n") == 1
    assert "is a file, but a folder is needed" in err


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def demo():
        """Be interrupted."""
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "demo", Command(demo))
    assert run_cli(capsys, "demo") == (130, "", "mrm: interrupted\n")


def test_a_run_can_be_given_back_as_its_yaml(capsys, phantoms, tmp_path):
    options = ["--max-steps", "2", "--training.global-batch", "4", "--training.workers", "0", "--audit", "names"]
    code, out, err = run_cli(
        capsys, "pretrain", "tiny", "--records", str(phantoms / "records.csv"), "--out", str(tmp_path / "a"), *options
    )
    assert code == 0, err
    assert "step 2/2" in out
    assert out.splitlines()[-1].startswith(
        f"next: mrm finetune RECIPE --train TRAIN.csv --val VAL.csv --init {tmp_path}"
    )
    code, out, err = run_cli(
        capsys, "pretrain", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")
    )
    assert code == 0, err
    assert (tmp_path / "a" / "log.csv").read_text() == (tmp_path / "b" / "log.csv").read_text()


SETTINGS = "seed: 7\ntraining: {lr: 0.5}\n"
PLACES = ["--train", "{tmp}", "--val", "{tmp}", "--init", "{tmp}", "--out", "run"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nih-1", *PLACES], (0, 0.03, 3000)),
        (["nih-1", "--config", "{file}", *PLACES], (7, 0.5, 3000)),  # the file overrides the recipe ...
        (["--config", "{file}", "nih-1", *PLACES], (7, 0.5, 3000)),  # ... in either order
        ([*PLACES, "nih-1", "--config={file}"], (7, 0.5, 3000)),
        (["--config", "{file}", *PLACES, "--seed", "1"], (1, 0.5, None)),  # without a recipe: the defaults
        (["--config", "{file}", "nih-1", *PLACES, "--training.lr", "2"], (7, 2.0, 3000)),  # options override both
    ],
)
def test_a_recipe_a_file_and_options_override_each_other_in_this_order(tmp_path, monkeypatch, arguments, expected):
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    words = [a.format(tmp=tmp_path, file=tmp_path / "settings.yaml") for a in arguments]
    (config,), _ = cli.COMMANDS["finetune"].arguments(words)
    assert (config.seed, config.training.lr, config.training.steps) == expected
    assert (config.train, config.out) == (tmp_path, Path("run"))


def test_a_file_of_settings_may_name_the_paths_too(tmp_path):
    (tmp_path / "settings.yaml").write_text(
        f"records: {tmp_path}\nout: run\nmodel: {{encoder_options: {{depth: 3}}}}\n"
    )
    (config,), _ = cli.COMMANDS["pretrain"].arguments(["tiny", "--config", str(tmp_path / "settings.yaml")])
    assert (config.records, config.out) == (tmp_path, Path("run"))
    assert config.model.encoder_options == {"depth": 3}  # a mapping is replaced as a whole
    assert config.model.image_size == recipes.tiny(Path(), Path()).model.image_size


def test_options_take_values_of_their_types(tmp_path):
    words = [
        "tiny",
        *PLACES,
        "--classes",
        "Edema",
        "Effusion",
        "--uncertain-by-class",
        "Edema=ones",
        "A=zeros,B=ignore",
    ]
    words += ["--training.betas", "0.5", "0.75", "--scratch", "--no-probe-first", "--training.lr-batch", "none"]
    (config,), _ = cli.COMMANDS["finetune"].arguments([w.format(tmp=tmp_path) for w in words])
    assert config.classes == ("Edema", "Effusion")
    assert config.uncertain_by_class == {"Edema": "ones", "A": "zeros", "B": "ignore"}
    assert config.training.betas == (0.5, 0.75)
    assert (config.scratch, config.probe_first, config.training.lr_batch) == (True, False, None)
    assert config.training.optimizer == "adamw"  # the recipe's


@pytest.mark.parametrize("words", [["--by", "sex", "age"], ["--by", "sex", "--by", "age"]])
def test_an_option_of_several_values_may_be_repeated(tmp_path, words):
    path = str(tmp_path)
    positional, named = cli.COMMANDS["evaluate"].arguments([path, "--records", path, "--out", "b", *words])
    assert positional == [tmp_path]
    assert named["by"] == ("sex", "age")


def test_what_stands_between_options_is_positional(tmp_path):
    words = [str(tmp_path), "a.png", "--out", "b.csv", "c.png", "--batch", "2", "d.png"]
    positional, named = cli.COMMANDS["predict"].arguments(words)
    assert positional == [tmp_path, ("a.png", "c.png", "d.png")]
    assert named == {"out": Path("b.csv"), "batch": 2}


def test_options_of_a_corpus_become_its_settings(tmp_path):
    words = ["custom", "--source", str(tmp_path), "--out", "b", "--columns", "image_path=File,report_content=Text"]
    _, named = cli.COMMANDS["prepare"].arguments([*words, "--fractions", "5", "--uncertain", "ones"])
    expected = Options(columns={"image_path": "File", "report_content": "Text"}, fractions=(5,), uncertain="ones")
    assert named["options"] == expected


def test_every_corpus_has_a_name_on_the_command_line():
    names = re.search(r"CORPUS is (.*?);", " ".join(data_preparation.prepare.__doc__.split()))[1]
    assert re.split(r", | or ", names) == [name for name in CORPORA if name != "custom"]


@pytest.mark.parametrize(
    "command", ["", *cli.COMMANDS, *(f"{c} {next(iter(t))}" for c, (_, t) in model_training.RECIPES.items())]
)
def test_help_fits_a_hundred_columns_and_groups_its_options(capsys, command):
    _, out, _ = run_cli(capsys, *command.split(), "--help")
    assert max(map(len, out.splitlines())) <= 100
    if command:
        assert "\nexample:\n  mrm " in out
        assert "\noptions:\n" not in out  # every option stands in a group that has a name
        assert all(" " in line.strip() for line in out.splitlines() if line.startswith("  -"))


def test_every_option_is_explained():
    for command in cli.COMMANDS.values():
        function = command.function
        known = fields_of(kind_of(function)) if command.recipes is not None else options_of(function)
        assert not [o.name for o in known if not o.help]


HEAVY = [
    "torch",
    "timm",
    "cv2",
    "numpy",
    "pyarrow",
    "sklearn",
    "scipy",
    "matplotlib",
    "pydicom",
    "PIL",
    "accelerate",
    "tokenizers",
    "pandas",
    "captum",
]
AT_ONCE = [
    ["--help"],
    ["recipes"],
    ["recipes", "nih-1"],
    *([*command.split(), "--help"] for command in cli.COMMANDS),
    ["pretrain", "tiny", "--help"],
    ["pretrain", "mimik"],
    ["pretrain", "tiny", "--records", "none.csv", "--out", "b"],
    ["pretrain", "tiny", "--out", "b"],
    ["pretrain", "tiny", "--recrods", "a"],
    ["finetune", "nih-1", "--config", "none.yaml"],
    ["evaluate", "none", "--records", "a", "--out", "b"],
    ["predict", "/", "none.png", "--out", "a.csv"],
    ["embed", "/", "/", "--out", "emb"],
    ["serve", "none"],
    ["doctor", "none.csv"],
    ["doctor", "/", "mimik"],
    ["benchmark", "nhi", "--out", "b"],
    ["probe", "--init", "/", "--train", "/", "--val", "/", "--test", "/", "--out", "b", "--finetune", "nhi-1"],
    ["explain", "/", "none.png", "--out", "b"],
]


def test_help_and_refusals_import_nothing_heavy():
    """Modules are counted, for seconds differ from machine to machine."""
    program = f"""
import contextlib, io, sys
from mrm import cli
for words in {AT_ONCE!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.main(words)
    assert not (heavy := set(sys.modules) & set({HEAVY!r})), (words, heavy)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_audit_answers_with_its_exit_status(capsys, phantoms, tmp_path):
    file = str(phantoms / "records.csv")
    code, out, _ = run_cli(capsys, "audit", file, file, "--no-images", "--json", str(tmp_path / "verdict.json"))
    assert code == 1
    assert "NOT clean" in out
    assert (tmp_path / "verdict.json").is_file()


def test_the_module_runs_as_a_script():
    done = subprocess.run([sys.executable, "-m", "mrm", "recipes", "nih-1"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "lr: 0.03" in done.stdout


@pytest.mark.slow
def test_predict_imports_only_what_it_needs():
    unneeded = [
        "sklearn",
        "scipy.stats",
        "scipy.optimize",
        "matplotlib",
        "pydicom",
        "pandas",
        "tensorboard",
        "jinja2",
        "captum",
    ]
    program = f"import sys, mrm.runs.predicting; print(sorted(set(sys.modules) & set({unneeded!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
