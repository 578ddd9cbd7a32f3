"""Writing derived values into a consumer's own YAML: what is found, what is refused, and that nothing else changes by a byte."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from runner.errors import RequestError
from runner.report.files import to_yaml
from runner.thresholds import __main__ as program
from runner.thresholds import apply, edit, thresholds
from runner.thresholds.apply import Setting
from tests.jobs import ROOT
from tests.journals import DEVICE, Fabricated, grid, write

WINDOWS = [128, 256, 512]
CONFIG = """\
# served by the team of two
model:
  dtype: bf16          # not ours
runtime:
  fa2_min_len_win: 512   # by hand, in March
  'fa2_min_len_cmp':  "16"

  other: [1, 2]
"""


def run(faster_from: dict[str, int] | None = None, noise: float = 0.01, **changes: Any) -> Fabricated:
    """Fabricate a run in which flash is faster than masked from another window on for each dtype (bf16: 256)."""
    found = faster_from or {"bf16": 256}
    curves = {
        "masked": lambda case: 0.1,
        "flash": lambda case: 0.05 if case["window"] >= found[case["dtype"]] else 0.1 / 1.2 if noise > 0.01 else 0.2,
    }
    declared = [
        {"key": key, "axis": "window", "baseline": "masked", "candidate": "flash", "per": per}
        for key, per in (("fa2_min_len_win", ["dtype"]), ("fa2_min_len_cmp", []))
    ]
    return Fabricated(
        curves, grid("window", WINDOWS, dtype=list(found)), "masked", derive={"thresholds": declared}, noise=noise, **changes
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(CONFIG)
    return path


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `apply` on a run; give back exit code, stdout and stderr."""

    def call(*arguments: str, of: Fabricated | None = None) -> tuple[int, str, str]:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        write(of or run(), folder)
        code = program.main(["apply", str(folder), "--to", str(config), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def refused(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2
    assert err.count("\n") == 1
    return err


def test_values_are_written_with_where_they_are_from_and_the_rest_stays(call: Call, config: Path) -> None:
    code, out, _ = call()
    assert code == 0
    assert config.read_text() == CONFIG.replace(
        "512   # by hand, in March", "256   # by hand, in March  # crossover: NVIDIA H200, dtype=bf16"
    ).replace('"16"', '"256"  # crossover: NVIDIA H200')
    assert "\n-  fa2_min_len_win: 512   # by hand, in March\n" in out
    assert "\n+  fa2_min_len_win: 256   # by hand, in March  # crossover: NVIDIA H200, dtype=bf16\n" in out


def test_twice_is_as_good_as_once(call: Call, config: Path) -> None:
    call()
    once = config.read_bytes()
    code, out, _ = call()
    assert (code, config.read_bytes()) == (0, once)
    assert out.endswith("base.yaml: nothing to change\n")


def test_a_value_of_another_run_on_the_same_gpu_replaces_the_first_in_place(call: Call, config: Path) -> None:
    call()
    before = config.read_text()
    call(of=run({"bf16": 512}))
    assert config.read_text() == before.replace("256", "512")


def test_a_dry_run_writes_nothing(call: Call, config: Path) -> None:
    code, out, _ = call("--dry-run")
    assert (code, config.read_text()) == (0, CONFIG)
    assert "+  fa2_min_len_win: 256" in out
    assert out.endswith("nothing written\n")


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("", False), ("n", False)])
def test_on_a_terminal_it_asks(call: Call, config: Path, monkeypatch: pytest.MonkeyPatch, answer: str, written: bool) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert call()[0] == 0
    assert (config.read_text() != CONFIG) == written
    call("--yes")
    assert config.read_text() != CONFIG


def test_scopes_that_differ_must_be_chosen_from(call: Call, config: Path) -> None:
    differing = run({"bf16": 256, "fp16": 512})
    assert "fa2_min_len_win differs by scope: dtype=bf16: 256; dtype=fp16: 512; say which, as in --scope dtype=bf16" in refused(
        call(of=differing)
    )
    assert config.read_text() == CONFIG
    assert call("--scope", "dtype=fp16", of=differing)[0] == 0
    assert "fa2_min_len_win: 512   # by hand, in March  # crossover: NVIDIA H200, dtype=fp16\n" in config.read_text()
    # A key without scopes has the one value that holds everywhere.
    assert "'fa2_min_len_cmp':  \"512\"  # crossover: NVIDIA H200\n" in config.read_text()


def test_scopes_that_agree_need_no_choice(call: Call, config: Path) -> None:
    assert call(of=run({"bf16": 256, "fp16": 256}))[0] == 0
    assert "fa2_min_len_win: 256   # by hand, in March  # crossover: NVIDIA H200\n" in config.read_text()


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ("dtype=fp8", "fa2_min_len_win has no value for dtype=fp8; measured were dtype=bf16: 256; dtype=fp16: 512"),
        ("dtyp=bf16", "--scope dtyp=bf16: no threshold has a scope of dtyp; did you mean dtype?"),
        ("bf16", "--scope bf16: expected AXIS=VALUE"),
    ],
)
def test_a_scope_that_is_none_is_said_so(call: Call, scope: str, message: str) -> None:
    assert message in refused(call("--scope", scope, of=run({"bf16": 256, "fp16": 512})))


def test_a_key_measured_at_one_value_only_is_not_written_for_another(call: Call) -> None:
    of = run()
    of.derive["thresholds"][0]["per"] = []
    assert "fa2_min_len_win was measured at dtype=bf16 only, not at dtype=fp16" in refused(call("--scope", "dtype=fp16", of=of))


def test_a_value_from_another_gpu_is_kept_unless_told(call: Call, config: Path) -> None:
    call()
    before = config.read_bytes()
    other = run({"bf16": 512}, device={**DEVICE, "name": "NVIDIA GeForce RTX 4090"})
    message = refused(call(of=other))
    assert "runtime.fa2_min_len_win (line 5) is from NVIDIA H200, this is from NVIDIA GeForce RTX 4090; " in message
    assert "overwrite it with --other-device" in message
    assert config.read_bytes() == before
    assert call("--other-device", of=other)[0] == 0
    assert "fa2_min_len_win: 512   # by hand, in March  # crossover: NVIDIA GeForce RTX 4090, dtype=bf16\n" in config.read_text()


def test_a_value_for_another_scope_is_kept_unless_told(call: Call, config: Path) -> None:
    differing = run({"bf16": 256, "fp16": 512})
    call("--scope", "dtype=bf16", of=differing)
    assert "is for dtype=bf16, this is for dtype=fp16; overwrite it with --other-scope" in refused(
        call("--scope", "dtype=fp16", of=differing)
    )
    assert call("--scope", "dtype=fp16", "--other-scope", of=differing)[0] == 0
    assert "# by hand, in March  # crossover: NVIDIA H200, dtype=fp16\n" in config.read_text()


def test_what_is_undecided_is_left_alone_unless_told(call: Call, config: Path) -> None:
    hidden = run({"bf16": 999}, noise=0.2)
    code, out, _ = call(of=hidden)
    assert (code, config.read_text()) == (0, CONFIG)
    assert "left alone, fa2_min_len_win: undecided, at the largest window, 512, the speedup is" in out
    assert call("--undecided", of=hidden)[0] == 0
    assert "fa2_min_len_win: 999999   # by hand" in config.read_text()


def test_what_policy_turns_off_is_written_as_never(call: Call, config: Path) -> None:
    of = run({"bf16": 256, "fp16": 512}, device={**DEVICE, "sm": "8.9"})
    of.derive["thresholds"] = [one | {"off_on_sm": ["8.9"]} for one in of.derive["thresholds"]]
    assert call(of=of)[0] == 0
    assert "fa2_min_len_win: 999999 " in config.read_text()


def test_a_disabled_key_is_written_as_never(call: Call, config: Path) -> None:
    assert call(of=run({"bf16": 4096}))[0] == 0
    assert "fa2_min_len_win: 999999 " in config.read_text()


def test_a_missing_key_is_named_and_can_be_added(call: Call, config: Path) -> None:
    config.write_text("model: 1\nruntime:\n    deep: 1 # why\n# end\n")
    assert "fa2_min_len_win, fa2_min_len_cmp: no such key in the file" in refused(call())
    assert call("--add", "runtime")[0] == 0
    assert config.read_text() == (
        "model: 1\nruntime:\n    deep: 1 # why\n    fa2_min_len_win: 256  # crossover: NVIDIA H200, dtype=bf16\n"
        "    fa2_min_len_cmp: 256  # crossover: NVIDIA H200\n# end\n"
    )
    assert call()[1].endswith("nothing to change\n")


def test_a_key_that_is_there_twice_is_refused_with_its_places(call: Call, config: Path) -> None:
    config.write_text("a: {fa2_min_len_win: 1}\nb:\n- fa2_min_len_win: 2\nfa2_min_len_cmp: 3\n")
    assert "fa2_min_len_win is there 2 times: a.fa2_min_len_win (line 1), b.0.fa2_min_len_win (line 3)" in refused(call())


@pytest.mark.parametrize("text", ["a: [\n", "fa2_min_len_win: {a: 1}\nfa2_min_len_cmp: 1\n", "\x00"])
def test_a_file_that_can_not_be_edited_is_refused_in_one_line(call: Call, config: Path, text: str) -> None:
    config.write_text(text)
    assert str(config) in refused(call())
    assert config.read_text() == text


def test_files_that_are_not_there_are_named(call: Call, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["apply", str(tmp_path), "--to", str(config)]) == 2
    assert "has no journal.jsonl and no thresholds.yaml" in capsys.readouterr().err
    assert program.main(["show", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err
    config.write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in refused(call())
    config.unlink()
    assert "can't read" in refused(call())


def test_a_thresholds_file_does_as_well_as_the_run(call: Call, config: Path, tmp_path: Path) -> None:
    call()
    from_run = config.read_bytes()
    (tmp_path / "thresholds.yaml").write_text(to_yaml(thresholds(run().events())))
    for source in (tmp_path / "thresholds.yaml", tmp_path):
        config.write_text(CONFIG)
        assert program.main(["apply", str(source), "--to", str(config)]) == 0
        assert config.read_bytes() == from_run


def test_a_file_behind_a_link_keeps_its_place_and_its_mode(call: Call, config: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    config.rename(real)
    real.chmod(0o640)
    config.symlink_to(real)
    call()
    assert config.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "crossover" in real.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "base.yaml", "real.yaml"}


def test_a_file_that_can_not_be_replaced_stays_as_it_is(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*paths: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(RequestError, match="Permission denied; make its folder writable"):
        apply.write(config, "k: 1\n")
    assert config.read_text() == CONFIG
    assert not list(config.parent.glob(".*"))


def test_show_says_the_thresholds_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run({"bf16": 256, "fp16": 512}), tmp_path)
    assert program.main(["show", str(tmp_path)]) == 0
    (tmp_path / "thresholds.yaml").write_text(to_yaml(thresholds(run({"bf16": 256, "fp16": 512}).events())))
    assert program.main(["show", str(tmp_path / "thresholds.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    assert lines[0] == (
        "fa2_min_len_win = 512: flash beats masked by 1.2x from window = 512 on; "
        "per dtype: from window = 256 on for bf16, from window = 512 on for fp16"
    )


def test_its_help_is_there_before_anything_heavy() -> None:
    code = "import sys\nfrom runner.thresholds.__main__ import main\ntry: main(['apply', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--other-device" in done.stdout
    assert {name.partition(".")[0] for name in done.stdout.split()} & {"yaml", "numpy", "scipy", "omegaconf", "torch"} == set()


# What YAML can look like: (text, the text with k = 256). Everything else is the same, byte for byte.
MARK, NAMED = "  # crossover: NVIDIA H200", "  # crossover k: NVIDIA H200"
WEIRD = {
    "plain": ("k: 1\n", f"k: 256{MARK}\n"),
    "no newline at the end": ("k: 1", f"k: 256{MARK}"),
    "spaces": ("k  :    1   \nj:   2   \n", f"k  :    256{MARK}\nj:   2   \n"),
    "comments everywhere": ("# a\n\n#b\nk: 1 #c\n # d\nj: 2\n#e", f"# a\n\n#b\nk: 256 #c{MARK}\n # d\nj: 2\n#e"),
    "windows line ends": ("a:\r\n  k: 1 # c\r\n  j: 2\r\n", f"a:\r\n  k: 256 # c{MARK}\r\n  j: 2\r\n"),
    "unicode and a byte order mark": ("\ufeffé: 'ü ✓ 😀'\nk: 1\n", f"\ufeffé: 'ü ✓ 😀'\nk: 256{MARK}\n"),
    "flow": ("a: {j: 'x # y', k: 1,z: [1,2]}\n", f"a: {{j: 'x # y', k: 256,z: [1,2]}}{NAMED}\n"),
    "flow over lines": ("a: {\n  k: 1, # c\n  j: 2}\n", f"a: {{\n  k: 256, # c{NAMED}\n  j: 2}}\n"),
    "JSON": ('{"k": 1,\n "j": 2}\n', f'{{"k": 256,{NAMED}\n "j": 2}}\n'),
    "quotes": ("'k': '1'\n\"j\": \"2\"\n", f"'k': '256'{MARK}\n\"j\": \"2\"\n"),
    "an anchor of nobody": ("k: &x 1\n", f"k: &x 256{MARK}\n"),
    "an alias": ("j: &x 1\nk: *x  # c\ni: *x\n", f"j: &x 1\nk: 256  # c{MARK}\ni: *x\n"),
    "a merged mapping": ("b: &b {k: 1}\na:\n  <<: *b\n", f"b: &b {{k: 256}}{NAMED}\na:\n  <<: *b\n"),
    "a tag": ("k: !!int '1'\n", f"k: !!int '256'{MARK}\n"),
    "a tag of the user's own elsewhere": ("j: !env HOME\nk: 1\n", f"j: !env HOME\nk: 256{MARK}\n"),
    "nothing yet": ("k:\nj: 2\n", f"k: 256{MARK}\nj: 2\n"),
    "nothing yet but a comment": ("k:   # c\n", f"k: 256   # c{MARK}\n"),
    "null": ("k: null\n", f"k: 256{MARK}\n"),
    "an interpolation": ("k: ${other}\n", f"k: 256{MARK}\n"),
    "in a list": ("- j: 1\n- k: 1\n  i: 2\n", f"- j: 1\n- k: 256{MARK}\n  i: 2\n"),
    "blocks of text": ("a: |+\n  k: 5\n\n\nk: 1\nb: >-\n  x\n", f"a: |+\n  k: 5\n\n\nk: 256{MARK}\nb: >-\n  x\n"),
    "documents": ("%YAML 1.1\n---\nj: 1\n---\nk: 1\n...\n", f"%YAML 1.1\n---\nj: 1\n---\nk: 256{MARK}\n...\n"),
    "an explicit key": ("? k\n: 1\n", f"? k\n: 256{MARK}\n"),
    "another way to write it": ("k: 0x100\n", f"k: 256{MARK}\n"),
    "a remark behind the marker": (f"k: 1{MARK} # mine\n", f"k: 256{MARK} # mine\n"),
    "another key's marker on its line": (
        "{k: 1, j: 2}  # crossover j: NVIDIA A100, dtype=bf16\n",
        f"{{k: 256, j: 2}}  # crossover j: NVIDIA A100, dtype=bf16{NAMED}\n",
    ),
    "deep and wide indentation": ("a:\n        b:\n         - - k: 1\n", f"a:\n        b:\n         - - k: 256{MARK}\n"),
    "a long line": (f"j: {'x ' * 200}\nk: 1\n", f"j: {'x ' * 200}\nk: 256{MARK}\n"),
}


@pytest.mark.parametrize(("text", "expected"), WEIRD.values(), ids=WEIRD)
def test_every_other_byte_stays(text: str, expected: str) -> None:
    setting = Setting("k", 256, "NVIDIA H200", "")
    assert apply.edited(text, [setting]) == expected
    assert apply.edited(expected, [setting]) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("k: &x 1\nj: *x\n", "k (line 1) is the anchor &x of other values"),
        ("k: |\n  1\n", "holds a block of text"),
        ("k: [1]\n", "holds a list"),
        ("k: !env N\n", "has the tag !env"),
        ("{k: 1, j: 'a\n  b'}\n", "k stands where it can't be changed without changing more"),  # no comment can stand here
        ("{k}\n", "k stands where it can't be changed without changing more"),
        ("k: 1\nk: 2\n", "k is there 2 times: k (line 1), k (line 2)"),
    ],
)
def test_what_would_change_more_than_one_value_is_refused(text: str, problem: str) -> None:
    with pytest.raises(RequestError, match=re.escape(problem)):
        apply.edited(text, [Setting("k", 256, "NVIDIA H200", "")])


@pytest.mark.parametrize(
    ("text", "add", "expected"),
    [
        ("", "a", f"a:\n  k: 256{MARK}\n"),
        ("# only this\n", "a", f"# only this\na:\n  k: 256{MARK}\n"),
        ("b: 1", "", f"b: 1\nk: 256{MARK}"),
        ("b: 1\r\n", "a.c", f"b: 1\r\na:\r\n  c:\r\n    k: 256{MARK}\r\n"),
        ("a:\n  b: 1\n\n# c\nd: 2\n", "a", f"a:\n  b: 1\n  k: 256{MARK}\n\n# c\nd: 2\n"),
        ("a:\nd: 2\n", "a", f"a:\n  k: 256{MARK}\nd: 2\n"),
        ("a:\n  b:\n  - 1\n  - 2 # c\n", "a", f"a:\n  b:\n  - 1\n  - 2 # c\n  k: 256{MARK}\n"),
        ("a: {}\n", "a", f"a: {{k: 256}}{NAMED}\n"),
        ("a: {b: 1} # c\n", "a.d", f"a: {{b: 1, d: {{k: 256}}}} # c{NAMED}\n"),
        ("a:\n  t: |\n    x\n\nb: 1\n", "a", f"a:\n  t: |\n    x\n\n  k: 256{MARK}\nb: 1\n"),
    ],
)
def test_a_key_is_added_behind_the_last_of_its_mapping(text: str, add: str, expected: str) -> None:
    assert apply.edited(text, [Setting("k", 256, "NVIDIA H200", "")], add) == expected


@pytest.mark.parametrize(("text", "add"), [("a: 1\n", "a"), ("a: [1]\n", "a.0"), ("- 1\n", "a"), ("a: 1\n---\nb: 1\n", "a")])
def test_a_key_is_added_to_nothing_but_a_mapping(text: str, add: str) -> None:
    with pytest.raises(RequestError, match="can't add k"):
        apply.edited(text, [Setting("k", 256, "NVIDIA H200", "")], add)


@pytest.mark.parametrize(("value", "written"), [(256, "256"), (0.5, "0.5"), (1e-5, "1.0e-05"), (1e22, "1.0e+22")])
def test_a_number_is_written_so_that_yaml_reads_it_back(value: float, written: str) -> None:
    text = apply.edited("k: 1\n", [Setting("k", value, "g", "")])
    assert text.startswith(f"k: {written} ")
    assert yaml.safe_load(text) == {"k": value}


# Mappings of mappings, lists, text and numbers, dumped in either style; `k` is in one place.
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.just("a # b: c")
TREES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(TREES, TREES, st.booleans(), st.integers(2, 8))
@example(None, "\x85", False, 2)
def test_whatever_the_file_holds_only_the_key_changes_or_it_is_refused(before: Any, after: Any, flow: bool, indent: int) -> None:
    asked = {"x": before, "run": {"k": 1, "y": after}}
    text = yaml.safe_dump(asked, default_flow_style=flow, allow_unicode=True, indent=indent)
    data = yaml.safe_load(text)  # what the file says: PyYAML writes some control characters so that it reads others
    try:
        new = apply.edited(text, [Setting("k", 256, "NVIDIA H200", "dtype=bf16")])
    except RequestError:
        assert flow  # where no comment can stand
        return
    data["run"]["k"] = 256
    assert yaml.safe_load(new) == data
    (place,) = edit.places(text, "k")
    assert new.startswith(text[: place.start] + "256")
    assert new.endswith(text[place.eol :])
