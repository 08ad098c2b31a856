"""Policies on their way out: `irevla push`, the card, and what an exported policy can do
elsewhere."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from irevla.cli.main import main
from irevla.config import Config, EnvConfig, ModelConfig, PretrainConfig
from irevla.config_io import to_dict
from irevla.errors import UserError
from irevla.evaluation.model_card import export, exported_settings, success_table, until
from irevla.evaluation.stats import read_results
from irevla.models.policy import VLAPolicy, build_policy
from irevla.storage.checkpoint import Checkpoints
from irevla.storage.journal import Journal
from irevla.tasks import BASELINE, Stage

Make = Callable[..., Path]
CONFIG = Config(
    suite="pointmass",
    expert_tasks=("left-disc",),
    rl_tasks=("left-disc-new",),
    unseen_tasks=("left-square-orange",),
    from_checkpoint="/home/me/secret",
    env=EnvConfig(image_size=32, horizon=3, workers=1, envs_per_worker=1),
    model=ModelConfig(vlm="tiny-random", width=32, layers=1, head_groups=4, head_hidden=16),
)
FINAL = "sl-button-press-new"
FIRST = "sft"


def policy() -> VLAPolicy:
    return build_policy(CONFIG.model, action_dim=2, image_size=32)


@pytest.fixture
def run(make_run: Make) -> Path:
    """A finished run with its first and its last policy."""
    directory = make_run()
    (directory / "config.yaml").write_text(yaml.safe_dump(to_dict(CONFIG), sort_keys=False))
    checkpoints = Checkpoints(directory / "checkpoints")
    checkpoints.save(FIRST, policy().files())
    checkpoints.save(FINAL, policy().files())
    journal = Journal(directory / "journal.jsonl")
    for event in ("sft", "sl:button-press-new"):
        journal.append(event)
    return directory


def rewrite(run: Path, **changes: object) -> None:
    path = run / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def push(*argv: str) -> int:
    return main(["push", *argv])


def test_a_run_is_written_with_its_table(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert push(str(run), "me/policy", "--to", str(out)) == 0
    card = (out / "README.md").read_text()
    assert (
        "After SL button-press-new" in card
        and "Suite `metaworld`" in card
        and "commit `3f2a91c04b7d`" in card
    )
    assert (
        "| push | expert | 0.00 [0.00, 0.07] 0/50 | 0.80 [0.67, 0.89] 40/50 | 0.82 [0.69, 0.90] "
        "41/50 |" in card
    )
    assert "**Unseen tasks (2)**" in card and "Mean over tasks: expert 0.885 → 0.905" in card
    assert "Seed of the training run: 0" in card and 'from_pretrained("me/policy")' in card
    assert VLAPolicy.from_pretrained(out).hash() == VLAPolicy.from_pretrained(run).hash()


def test_what_goes_out_names_no_files_of_ours(run: Path, tmp_path: Path) -> None:
    assert push(str(run), "me/policy", "--to", str(tmp_path / "out")) == 0
    for path in (tmp_path / "out").glob("*.[jm]*"):
        assert "/home/me" not in path.read_text() and str(tmp_path) not in path.read_text()


def test_the_table_is_that_of_the_policy(run: Path) -> None:
    _, card = export(run / "checkpoints" / FIRST, name="me/policy")
    assert "After SFT" in card and "0.80 [0.67, 0.89] 40/50" in card and "41/50" not in card
    Checkpoints(run / "checkpoints").save("rl-window-close-new-000005", policy().files())
    _, card = export(run, name="me/policy")  # the newest: on the way, and never evaluated
    assert "Success rates" not in card


def test_a_run_without_results_has_a_card(run: Path) -> None:
    (run / "results.json").unlink()
    assert "Success rates" not in export(run, name="me/policy")[1]


def test_an_edited_card_is_kept(run: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    assert push(str(run), "me/policy", "--to", str(out)) == 0
    edited = (out / "README.md").read_text().replace("---\n", "---\nlicense: mit\n", 1)
    (out / "README.md").write_text(edited)
    assert push(str(out), "me/policy", "--to", str(again)) == 0
    assert (again / "README.md").read_text() == edited
    assert exported_settings(again) == exported_settings(out)


def test_a_card_in_the_way_is_kept_and_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert push(str(run / "checkpoints" / FIRST), "me/policy", "--to", str(out)) == 0
    assert "delete it" not in capsys.readouterr().out
    before = VLAPolicy.from_pretrained(out).hash()
    (out / "README.md").write_text("my own words")
    assert push(str(run), "me/policy", "--to", str(out)) == 0
    assert (out / "README.md").read_text() == "my own words"
    assert "its README.md is the one that was there: delete it" in capsys.readouterr().out
    assert VLAPolicy.from_pretrained(out).hash() == VLAPolicy.from_pretrained(run).hash() != before
    (out / "README.md").unlink()
    assert push(str(run), "me/policy", "--to", str(out)) == 0
    assert "Success rates" in (out / "README.md").read_text()


def test_results_end_with_the_stage(run: Path) -> None:
    results = until(read_results(run / "results.json"), Stage("sl", "window-close-new"))
    assert results.last == Stage("sl", "window-close-new")
    assert BASELINE.name in {row.stage for row in results.rows}
    assert "RL button-press-new" not in success_table(results)


def test_an_exported_policy_says_where_it_acts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(str(run), "me/policy", "--to", str(tmp_path / "out")) == 0
    settings = exported_settings(tmp_path / "out")
    assert settings == replace(CONFIG, from_checkpoint="", model=ModelConfig())
    capsys.readouterr()
    assert (
        main(["eval", str(tmp_path / "out"), "--tasks", "left-disc", "--episodes", "2", "--json"])
        == 0
    )
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["task"], row["episodes"], row["stage"], row["env_steps"]) == (
        "left-disc",
        2,
        "out",
        6,
    )


def evaluated(path: Path, capsys: pytest.CaptureFixture[str], *, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["eval", str(path), "--tasks", "left-disc", "--episodes", "1", "--json"]) == code
    return capsys.readouterr()[0 if code == 0 else 1]


def test_a_task_is_what_it_was_to_the_policy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**to_dict(CONFIG), "expert_tasks": ["right-disc"], "unseen_tasks": ["left-disc"]}
    (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert json.loads(evaluated(run, capsys))[0]["category"] == "unseen"
    elsewhere = ["eval", str(run), "--suite", "pointmass", "--tasks", "left-disc"]
    assert main([*elsewhere, "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["category"] == "expert"


def test_settings_around_an_exported_policy_are_not_its_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign, other = tmp_path / "foreign", tmp_path / "other"
    assert push(str(run), "me/policy", "--to", str(foreign / "checkpoints" / "policy")) == 0
    (foreign / "config.yaml").write_text("hydra: {}")
    assert json.loads(evaluated(foreign / "checkpoints" / "policy", capsys))[0]["env_steps"] == 3
    assert push(str(run), "me/policy", "--to", str(other / "me" / "policy")) == 0
    longer = replace(CONFIG, env=replace(CONFIG.env, horizon=5))
    (other / "config.yaml").write_text(yaml.safe_dump(to_dict(longer), sort_keys=False))
    monkeypatch.chdir(other)
    assert json.loads(evaluated(Path("me/policy"), capsys))[0]["env_steps"] == 3


def test_a_run_and_its_checkpoints_act_as_the_run_says(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run, run / "checkpoints" / FIRST):
        assert json.loads(evaluated(path, capsys))[0]["env_steps"] == 3


def test_the_current_directory_may_be_the_policy(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(str(run), "me/policy", "--to", str(tmp_path / "out")) == 0
    monkeypatch.chdir(tmp_path / "out")
    assert json.loads(evaluated(Path(), capsys))[0]["stage"] == "out"


def test_what_is_no_run_of_the_algorithm_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(to_dict(PretrainConfig()), sort_keys=False)
    )
    said = evaluated(tmp_path, capsys, code=2)
    assert (
        f"{tmp_path} is no run of Algorithm 1 that can be read here (unknown field 'width')" in said
    )
    assert "choose from" not in said and len(said.strip().splitlines()) == 1


def test_a_policy_from_nowhere_does_not_act(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy().save_pretrained(tmp_path / "policy")
    assert main(["eval", str(tmp_path / "policy")]) == 2
    assert "does not say where it acts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/nowhere", "me/policy"], "there is no folder /nowhere"),
        (["{empty}", "me/policy"], "holds no policy"),
        (["{run}", "policy"], "no name of a repository"),
        (["{run}"], "repo"),
        (["{run}", "policy", "--to", "{empty}"], "no name of a repository"),
        (["{run}", "me/policy", "--to", "{full}"], "holds other files (thesis.tex)"),
        (["{run}", "me/policy", "--to", "{full}/thesis.tex"], "thesis.tex is a file"),
        (
            ["{run}", "me/policy", "--to", "{full}/thesis.tex/a/b"],
            "make it writable, or choose another place",
        ),
        (["{run}", "me/policy", "--privat"], "did you mean '--private'"),
    ],
)
def test_a_mistake_gets_one_line(
    argv: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    places = {"run": run, "empty": tmp_path / "empty", "full": tmp_path / "full"}
    assert push(*(word.format(**places) for word in argv)) == 2
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work" and not [
        *places["empty"].iterdir()
    ]
    captured = capsys.readouterr()
    assert (
        captured.out == ""
        and len(captured.err.strip().splitlines()) == 1
        and said.lower() in captured.err.lower()
    )


def test_pushing_prints_the_address(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: dict[str, object] = {}

    def upload(files: dict[str, object], repo: str, **options: object) -> str:
        sent.update(files=files, repo=repo, **options)
        return "hub://me/policy"

    monkeypatch.setattr("irevla.models.hub.upload", upload)
    assert push(str(run), "me/policy", "--private") == 0
    assert capsys.readouterr().out == "hub://me/policy\n"
    assert (
        sent["repo"] == "me/policy"
        and sent["private"] is True
        and "Success rates" in str(sent["card"])
    )


@pytest.mark.parametrize("git", ["", "3f2a91c04b7d-dirty"])
def test_the_card_of_unknown_code_says_so(git: str, run: Path) -> None:
    rewrite(run, git=git)
    _, card = export(run, name="me/policy")
    assert "- The code is not known: " in card
    assert "commit `" not in card


def test_the_card_says_how_a_gripper_acts(run: Path) -> None:
    assert "every action is the policy's mean" in export(run, name="me/policy")[1]
    rewrite(run, config=to_dict(Config(rl="sac")))
    _, card = export(run, name="me/policy")
    assert "the gripper is drawn" in card
    assert "every action is the policy's mean" not in card


def test_a_damaged_results_file_is_the_users_error(run: Path) -> None:
    (run / "results.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        export(run, name="me/policy")
