"""The command line says what it was asked, and names a user's mistake in one line without a traceback."""

import json
import zipfile

import numpy as np
import pytest

from theory.__main__ import main
from theory.claims.registry import CLAIMS


def error_of(capsys, *arguments):
    """The single line of error that a mistaken command prints."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error:")]
    return line


def test_list_names_every_claim(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(claim_id in printed for claim_id in CLAIMS)


def test_list_as_json(capsys):
    assert main(["list", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == list(CLAIMS)


def test_check_prints_a_table_with_verdicts(capsys, monkeypatch):
    """Decided in this process; by workers, as a user has it, in the next test."""
    from theory import verdicts

    asked = []

    def here(claims, **options):
        from theory.claims.decide import decide

        asked.append(options)
        return [decide(claim, cases=options["cases"]) for claim in claims]

    monkeypatch.setattr(verdicts, "decide_with_progress", here)
    assert main(["check", "AO-B", "AO-B*", "--cases", "20", "--workers", "1"]) == 0
    assert asked == [{"cases": 20, "seed": 0, "workers": 1}]
    printed = capsys.readouterr().out
    assert "AO-B*" in printed
    assert "2 claims: 1 proved, 0 verified, 1 fail" in printed


def test_check_as_json_has_the_documented_fields(capsys):
    assert main(["--json", "AO-B", "--workers", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {"id", "verdict", "cases", "worst_margin", "method", "corrected_by"} <= set(row)
    assert (row["id"], row["verdict"], row["corrected_by"]) == ("AO-B", "fails", "AO-B*")
    assert row["counterexample"]


def test_show_tells_statement_counterexample_proof_and_correction(capsys):
    assert main(["show", "AO-B"]) == 0
    printed = capsys.readouterr().out
    for word in ("statement", "domain", "checked against", "counterexample", "Corrected by", "proof"):
        assert word in printed


def test_a_changed_verdict_is_exit_code_one(capsys, monkeypatch):
    from theory import verdicts

    def changed(claims, **options):
        from dataclasses import replace

        from theory.claims.decide import decide

        return [replace(decide(claim, cases=5), as_recorded=False) for claim in claims]

    monkeypatch.setattr(verdicts, "decide_with_progress", changed)
    assert main(["check", "AO-B"]) == 1
    assert "CHANGED: AO-B" in capsys.readouterr().out


def test_an_unknown_claim_suggests_the_nearest(capsys):
    assert "SC-L2" in error_of(capsys, "show", "SC-LL2")
    assert "AO-K" in error_of(capsys, "check", "ao-k")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("reprot", "`report`"),
        ("Chekc", "`check`"),
        ("SC-LL2", "SC-L2"),
        ("ao-k", "AO-K"),
        ("xyzzy", "--help"),
        ("a.npz", "`prescribe a.npz`"),
    ],
)
def test_a_mistyped_first_word_suggests_the_nearest_command_or_claim(capsys, word, meant):
    line = error_of(capsys, word, "--seed", "1")
    assert f"must be a command or a claim id; got {word!r}" in line
    assert meant in line
    assert meant.startswith("SC-") or "SC-" not in line
    assert len(line) < 160


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["check", "--cases", "0"], "cases"),
        (["check", "--workers", "0"], "workers"),
        (["check", "--seed", "-1"], "seed"),
        (["prescribe"], "data"),
        (["prescribe", "--builtin", "digits", "--plots", __file__], "plots"),
        (["report", "--out", __file__], "out"),
        (["prescribe", "nowhere.npz"], "nowhere.npz"),
        (["prescribe", "--builtin", "digits", "--eta", "1.5"], "eta"),
        (["prescribe", "--builtin", "digits", "--noise-std", "-1"], "noise_std"),
        (["prescribe", "--builtin", "digits", "--sampler", "magic"], "sampler"),
        (["prescribe", "--builtin", "digits", "--d-emb", "0"], "d_emb"),
    ],
    ids=str,
)
def test_mistaken_options_are_named(capsys, arguments, named):
    assert named in error_of(capsys, *arguments)


def bad_files(folder):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), np.arange(40) % 2
    arrays = {
        "nan": {"features": np.where(x > 2, np.nan, x) * np.nan, "labels": y},
        "labels": {"features": x, "labels": y + 0.5},
        "shapes": {"features": x, "labels": y[:-1]},
        "single": {"features": x, "labels": np.r_[np.zeros(39, int), 1]},
        "keys": {"x": x},
    }
    for name, content in arrays.items():
        np.savez(folder / f"{name}.npz", **content)
    whole = (folder / "keys.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npz").write_text("not an archive")
    with zipfile.ZipFile(folder / "empty.npz", "w"):
        pass


@pytest.mark.parametrize("name", ["nan", "labels", "shapes", "single", "keys", "cut", "text", "empty"])
def test_a_bad_file_is_one_clear_error(capsys, tmp_path, name):
    bad_files(tmp_path)
    assert len(error_of(capsys, "prescribe", str(tmp_path / f"{name}.npz"))) > 30


def test_prescribe_writes_text_json_and_figures(capsys, tmp_path):
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 2
    features = rng.standard_normal((200, 3)) + 1.5 * labels[:, None]
    np.savez(tmp_path / "mine.npz", features=features, labels=labels)
    file = str(tmp_path / "mine.npz")
    assert main(["prescribe", file, "--resamples", "4", "--plots", str(tmp_path / "figures")]) == 0
    assert "noise_std" in capsys.readouterr().out
    assert list((tmp_path / "figures").glob("*.png"))
    assert main(["prescribe", file, "--resamples", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 200
