"""The commands: each parses what was typed and calls the library.

Everything heavy is imported inside them, so that `--help` is instant.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from irevla.cli.arguments import parse, writable
from irevla.config import Config, EnvConfig, ExpertConfig, PretrainConfig, RolloutsConfig
from irevla.errors import UserError
from irevla.presets import PRESETS, find_preset

if TYPE_CHECKING:
    from irevla.data.dataset import Dataset
    from irevla.evaluation.blind_data import BlindRate


def run(argv: Sequence[str]) -> None:
    """Algorithm 1: improve a policy by trial and error. The same command again resumes."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: irevla run PRESET [--out DIR] [--tensorboard] [--any.field VALUE ...]\n")
        for name, (purpose, _) in PRESETS.items():
            print(f"  {name:<12} {purpose}")
        print("\n`irevla run PRESET --help` shows every field with its default.")
        return
    preset = find_preset(argv[0])

    @dataclasses.dataclass(frozen=True)
    class RunArguments:
        """Algorithm 1 with a preset; every field can be overridden. The same command again
        resumes."""

        out: Path = Path("runs") / argv[0]  # the run's directory
        tensorboard: bool = False  # write TensorBoard curves beside metrics.jsonl
        config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(
            default_factory=lambda: preset
        )

    arguments = parse(RunArguments, argv[1:], prog=f"irevla run {argv[0]}")
    out = arguments.out
    writable(out)

    import irevla
    from irevla.evaluation.stats import read_results
    from irevla.evaluation.tables import forgetting, summary
    from irevla.progress import screen

    irevla.run(arguments.config, out=out, tensorboard=arguments.tensorboard)
    results = read_results(out / "results.json")
    screen.print(summary(results))
    screen.print(forgetting(results))
    if (out / "report.html").exists():
        screen.print(f"report: {out / 'report.html'}", soft_wrap=True)


def reproduce(argv: Sequence[str]) -> None:
    """A table or figure of the paper: all its runs, or what is drawn of them. Resumes."""
    from irevla.reproduce.grid import EVIDENCE, cells, chosen, find_evidence

    if not argv or {"-h", "--help"} & set(argv[:2]):
        print("usage: irevla reproduce NAME PRESET [--seeds N N ...] [--rows ROW ROW ...]")
        print("                        [--out DIR] [--plot] [--any.field VALUE ...]\n")
        for name, (question, rows) in EVIDENCE.items():
            print(f"  {name:<9} {question}\n            {', '.join(rows)}")
        print("\nPRESET is one of `irevla run`. --plot makes no run, and draws what is there: with")
        print("--rows of these alone.")
        return
    question, rows = find_evidence(argv[0])
    if len(argv) < 2:
        raise UserError(f"name a preset too: irevla reproduce {argv[0]} quickstart")
    preset = find_preset(argv[1])

    @dataclasses.dataclass(frozen=True)
    class ReproduceArguments:
        """All runs of a table or figure, one after the other; the same command again resumes."""

        seeds: tuple[int, ...] = (0, 1, 2)  # of training: each has its own demonstrations too
        out: Path = Path("runs") / "evidence" / argv[1]  # runs are in OUT/ROW/seed-N
        rows: tuple[str, ...] = ()  # make these and sft, or with --plot draw these; none: all
        plot: bool = False  # make no run: only the table and figures of what is there
        config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(
            default_factory=lambda: preset
        )

    arguments = parse(ReproduceArguments, argv[2:], prog=f"irevla reproduce {argv[0]} {argv[1]}")
    seeds = arguments.seeds
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 1000 for seed in seeds):
        raise UserError("--seeds must name each seed once, at least one, in 0..999")
    for name, instead in {"seed": "--seeds", "method": "the rows of NAME"}.items():
        if getattr(arguments.config, name) != getattr(preset, name):
            raise UserError(f"leave --{name} out: {instead} settle it")
    out = arguments.out
    writable(out)

    from irevla.progress import screen
    from irevla.reproduce.figures import draw
    from irevla.reproduce.runs import make

    wanted = chosen(rows, arguments.rows)
    print(question)
    if arguments.plot:
        rows = wanted
    else:
        for _ in make(cells(arguments.config, wanted, arguments.seeds, out)):
            draw(argv[0], out, rows, arguments.seeds)
    screen.print(draw(argv[0], out, rows, arguments.seeds), soft_wrap=True, markup=False)


def evaluate(argv: Sequence[str]) -> None:
    """Success rates of a run's newest policy, or of a checkpoint, on fixed seeds."""

    @dataclasses.dataclass(frozen=True)
    class EvalArguments:
        """Success rates with counts and Wilson intervals, on seeds that training never uses."""

        policy: tyro.conf.Positional[
            Path
        ]  # a run directory, a checkpoint, or a policy that push has written
        tasks: tuple[str, ...] = ()  # or "unseen", "spatial" (for spatial-0, ...); none: the run's
        suite: str = ""  # another one than the run's, as `panda` for a policy of panda-sim
        episodes: int = 50  # per task
        seed: int = 0  # which block of evaluation seeds
        words: Literal["right", "empty", "another", "punctuated"] = "right"  # what it is told: the
        # instruction; nothing; the next task's; its own in capitals with an exclamation mark
        execute: int = 0  # actions of a chunk that it executes before it looks again; 0: its own
        rollouts: RolloutsConfig = dataclasses.field(default_factory=RolloutsConfig)
        json: bool = False  # print rows as JSON

    arguments = parse(EvalArguments, argv, prog="irevla eval")
    if arguments.episodes < 1 or not 0 <= arguments.seed < 1000:
        raise UserError("--episodes must be at least 1 and --seed in 0..999")
    if arguments.execute < 0:
        raise UserError("--execute must be at least 1, or 0 for the policy's own")

    from irevla.evaluation.saved import Interrupted, Unfinished, evaluate_saved
    from irevla.evaluation.stats import Row
    from irevla.evaluation.tables import rows_table
    from irevla.progress import screen

    def show(rows: list[Row]) -> None:
        if arguments.json:
            print(json.dumps([row.to_json() for row in rows]))
        else:
            screen.print(rows_table(rows))

    try:
        rows = evaluate_saved(
            arguments.policy,
            arguments.tasks,
            episodes=arguments.episodes,
            seed=arguments.seed,
            suite=arguments.suite,
            words=arguments.words,
            execute=arguments.execute,
            rollouts=arguments.rollouts,
        )
    except (Interrupted, Unfinished) as error:
        show(error.rows)
        raise
    show(rows)


def collect(argv: Sequence[str]) -> None:
    """Expert demonstrations of a suite, as a LeRobotDataset v3."""
    if (
        argv and argv[0].startswith("-") and not {"-h", "--help"} & set(argv)
    ):  # its preset has the other defaults
        raise UserError("name the suite first: irevla collect SUITE --out DIR")
    preset = PRESETS[argv[0]][1] if argv and argv[0] in PRESETS else Config()

    @dataclasses.dataclass(frozen=True)
    class CollectArguments:
        """Expert demonstrations by the suite's scripted experts, as a LeRobotDataset v3: those that
        `irevla run` of the preset with the suite's name would collect. The same command again goes
        on.

        With --demonstrations those of people are imported instead, at most expert.episodes of each
        task.
        """

        suite: tyro.conf.Positional[str]
        out: Path  # the dataset's directory
        tasks: tuple[str, ...] = ()  # as for `irevla eval`; none: all expert tasks
        demonstrations: Path | None = (
            None  # recordings of people (kitchen: files of Minari or R3M, or a folder)
        )
        seed: int = 0
        expert: ExpertConfig = dataclasses.field(default_factory=lambda: preset.expert)
        env: EnvConfig = dataclasses.field(default_factory=lambda: preset.env)

    arguments = parse(CollectArguments, argv, prog="irevla collect")

    if arguments.expert.dataset:
        raise UserError("--expert.dataset names a dataset to read; what is collected goes to --out")

    from irevla.envs.suite import load_suite
    from irevla.rollout.demonstrations import collect_expert, import_recordings
    from irevla.tasks import Category

    suite = load_suite(arguments.suite)
    suite.check()
    suite.check_senses(arguments.env)
    names = suite.several(arguments.tasks) or suite.named((), Category.EXPERT)
    writable(arguments.out)
    expert, env, root = arguments.expert, arguments.env, arguments.out
    if arguments.demonstrations:
        path, most = arguments.demonstrations, expert.episodes
        store = import_recordings(suite, names, path=path, most=most, env=env, root=root)
    else:
        store = collect_expert(suite, names, expert, env=env, seed=arguments.seed, root=root)
    print(f"{len(store)} episodes of {len(names)} tasks in {arguments.out}")


def data(argv: Sequence[str]) -> None:
    """What is in a LeRobotDataset: tasks, cameras, actions; with --page images too."""

    @dataclasses.dataclass(frozen=True)
    class ReplayConfig:
        """How it is replayed, as `irevla run` has it."""

        action_repeat: int = 0  # control steps a decision; 0: the preset's, or one for each frame
        horizon: int = 0  # decisions; 0: the preset's, or time for the longest episode

    @dataclasses.dataclass(frozen=True)
    class DataArguments:
        """Tasks, episodes, cameras, rate and ranges of actions in a LeRobotDataset, of irevla or of
        others: what --expert.dataset would find."""

        path: tyro.conf.Positional[str]  # the dataset's directory, or OWNER/NAME on the Hub
        page: Path | None = None  # write a self-contained HTML page too, with images
        suite: str = ""  # replay demonstrations with closed eyes in its tasks, for the page
        episodes: int = 20  # of each task, then
        env: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
        json: bool = False  # print as JSON

    arguments = parse(DataArguments, argv, prog="irevla data")
    page, suite = arguments.page, arguments.suite
    asked = {name: value for name, value in vars(arguments.env).items() if value}
    if suite and page is None:
        raise UserError("--suite is for the page: name a file as --page")
    if page is not None and page.suffix not in (".html", ".htm"):
        raise UserError(f"--page writes HTML over what is there: name a file .html, not {page}")
    if asked and not suite:
        raise UserError("--env is for blind replay: name a --suite")
    EnvConfig(**asked)  # for what it refuses
    if arguments.episodes < 1:
        raise UserError("--episodes must be at least 1")
    if page is not None:
        writable(page.absolute().parent)

    from irevla.data.dataset import Dataset
    from irevla.data.fetched import dataset_folder
    from irevla.data.summary import summary_of, tables
    from irevla.progress import screen

    dataset = Dataset(dataset_folder(arguments.path, () if page else None))
    if page is not None:
        from irevla.evaluation.data_page import write_data_page

        rates = _blind_rates(dataset, suite, asked, arguments.episodes) if suite else ()
        write_data_page(dataset, page, rates)
    summary = summary_of(dataset)
    if arguments.json:
        print(json.dumps(summary.to_json(), indent=1))
        return
    for each in tables(summary):
        screen.print(each, soft_wrap=isinstance(each, str))
    if page is not None:
        screen.print(f"page: {page}", soft_wrap=True)


def _blind_rates(
    dataset: "Dataset", name: str, asked: dict[str, Any], episodes: int
) -> list["BlindRate"]:
    """Replay the demonstrations of `dataset` in the suite `name`, as `asked` says and else as a run
    of it would."""
    from irevla.envs.suite import load_suite
    from irevla.evaluation.blind_data import blind_rates, fitting

    suite = load_suite(name)
    env = PRESETS[name][1].env if name in PRESETS else fitting(dataset, suite, EnvConfig())
    env = dataclasses.replace(env, **asked)
    return blind_rates(dataset, suite, env=env, episodes=episodes)


def tasks(argv: Sequence[str]) -> None:
    """The tasks of a suite: categories and instructions."""

    @dataclasses.dataclass(frozen=True)
    class TasksArguments:
        """The tasks of a suite, with category and instruction."""

        suite: tyro.conf.Positional[str]
        json: bool = False  # print as JSON

    arguments = parse(TasksArguments, argv, prog="irevla tasks")

    from irevla.envs.suite import GYM, load_suite

    suite = load_suite(arguments.suite)
    if arguments.suite.startswith(f"{GYM}:"):
        suite.check()  # of later tasks, too, what somebody has written
    found = suite.tasks
    if arguments.json:
        print(json.dumps([dataclasses.asdict(task) for task in found], indent=1))
        return
    from rich.table import Column, Table

    from irevla.progress import screen

    longest = max(len(task.name) for task in found)
    name = Column("task", min_width=longest)  # to be copied: whole, however narrow the terminal is
    table = Table(name, "category", "instruction", "what is new", box=None, header_style="bold")
    for task in found:
        table.add_row(task.name, task.category.value, task.instruction, task.note)
    screen.print(table)


def report(argv: Sequence[str]) -> None:
    """Tables, learning curves and videos of a run, in one page."""

    @dataclasses.dataclass(frozen=True)
    class ReportArguments:
        """One self-contained HTML page (DIR/report.html) and PNGs (DIR/plots), from what the run
        has written so far."""

        run: tyro.conf.Positional[Path]

    arguments = parse(ReportArguments, argv, prog="irevla report")

    from irevla.evaluation.report import write_report

    print(write_report(arguments.run))


def bench(argv: Sequence[str]) -> None:
    """One of the benchmarks."""

    @dataclasses.dataclass(frozen=True)
    class BenchArguments:
        """Measure one of the costs that matter, against the usual way, in one run."""

        name: tyro.conf.Positional[str] = ""
        list: bool = False  # the names
        json: bool = False  # print one JSON object; its "ratio" is the headline
        suite: str = "metaworld"  # render: or "kitchen", "libero" or "panda-sim"
        vlm: str = (
            "tiny"  # encode, sft, ppo-update: or "blip2", which is BLIP-2 2.7B with random weights
        )
        batch: int = 0  # encode, sft: pictures at once; rollout: environments a worker; 0: as suits
        gradient_checkpointing: bool = (
            False  # sft of blip2: compute activations again, for less memory
        )
        lora: bool = False  # encode of blip2: with LoRA, as all stages but the first start with
        compile: bool = (
            False  # encode and sft of blip2: torch.compile, which takes a minute at first
        )
        ray_address: str = ""  # latency: of a cluster, to measure with the VLM there as well ...
        ray_resource: str = ""  # ... on a node that has this custom resource

    arguments = parse(BenchArguments, argv, prog="irevla bench")

    from irevla.bench import BENCHMARKS, run_benchmark

    if arguments.list or not arguments.name:
        for name, (purpose, _) in BENCHMARKS.items():
            print(f"{name:<12} {purpose}")
        return
    if arguments.batch < 0:
        raise UserError(f"--batch must be positive, or 0 for the VLM's own, not {arguments.batch}")
    asked = {
        field.name: getattr(arguments, field.name) for field in dataclasses.fields(BenchArguments)
    }
    plain = dataclasses.asdict(BenchArguments())
    options = {
        key: value
        for key, value in asked.items()
        if value != plain[key] and key not in ("name", "json")
    }
    result = run_benchmark(arguments.name, **options)
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{key:<24} {value}" for key, value in result.items())
    )


def push(argv: Sequence[str]) -> None:
    """Share a policy on the Hugging Face Hub, with its success table."""

    @dataclasses.dataclass(frozen=True)
    class PushArguments:
        """Upload a policy to the Hugging Face Hub, with a model card that carries the success table
        of its run.

        With --to it is only written to a folder, to be looked at and edited; that folder can be
        pushed, too. A README.md that is there is kept: delete it to get a new one.
        """

        policy: tyro.conf.Positional[Path]  # a run directory, a checkpoint or a saved policy
        repo: tyro.conf.Positional[str]  # the repository, OWNER/NAME; it is made if need be
        private: bool = False  # for you and your organisation alone
        to: Path | None = None  # write to this folder and upload nothing

    arguments = parse(PushArguments, argv, prog="irevla push")

    from irevla.evaluation.model_card import export
    from irevla.models.files import write_policy
    from irevla.models.hub import check_name, upload

    check_name(arguments.repo)  # with --to as well: the card says it
    files, card = export(arguments.policy, name=arguments.repo)
    if arguments.to:
        new = write_policy(arguments.to, files, card=card)
        print(
            f"written to {arguments.to}, nothing uploaded; look at its README.md, then push this "
            "folder"
        )
        if not new:
            print(
                "its README.md is the one that was there: delete it and give the same command "
                "again for a new one"
            )
    else:
        print(upload(files, arguments.repo, private=arguments.private, card=card))


def pretrain(argv: Sequence[str]) -> None:
    """Pretrain the small vision-language model on procedural scenes."""

    @dataclasses.dataclass(frozen=True)
    class PretrainArguments:
        """Draw a corpus of scenes with questions and fit the small VLM to answer them. The same
        command again resumes.

        DIR/tiny.safetensors are the weights (`irevla ask --model DIR/tiny.safetensors`),
        DIR/results.json the grades.
        """

        out: Path = Path("runs/pretrain")
        config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = dataclasses.field(
            default_factory=PretrainConfig
        )

    arguments = parse(PretrainArguments, argv, prog="irevla pretrain")
    writable(arguments.out)

    from irevla.pretraining.fit import pretrain as run_pretraining
    from irevla.pretraining.fit import table
    from irevla.progress import screen

    results = run_pretraining(arguments.out, arguments.config)
    screen.print(table(results))


def ask(argv: Sequence[str]) -> None:
    """Ask the small vision-language model about an image."""

    @dataclasses.dataclass(frozen=True)
    class AskArguments:
        """Ask the small vision-language model about an image. It knows the scenes that it was
        pretrained on, and little else."""

        image: tyro.conf.Positional[Path]  # PNG or JPEG; resized to the model's size
        question: tyro.conf.Positional[str] = "describe the picture."
        model: Path | None = (
            None  # weights that `irevla pretrain` wrote; none: those of the package
        )

    arguments = parse(AskArguments, argv, prog="irevla ask")

    from irevla.models.vlm.pretrained import SHIPPED, ask

    print(ask(arguments.model or SHIPPED, arguments.image, arguments.question))


def classifier(argv: Sequence[str]) -> None:
    """Train what tells a robot that its task is done, from labelled images."""

    @dataclasses.dataclass(frozen=True)
    class ClassifierArguments:
        """Learn from the images in FOLDER/success and FOLDER/failure (PNG or JPEG, 50 of each at
        least) when a task is done. The classifier starts from the VLM of a policy, which is not
        changed."""

        folder: tyro.conf.Positional[Path]
        policy: Path  # a run directory, a checkpoint or a saved policy
        instruction: str  # of the task
        out: Path  # where to write the classifier
        steps: int = 600  # gradient steps

    arguments = parse(ClassifierArguments, argv, prog="irevla classifier")

    from irevla.robot.commands import classifier_command

    writable(arguments.out)
    said = classifier_command(
        arguments.folder,
        policy=arguments.policy,
        instruction=arguments.instruction,
        out=arguments.out,
        steps=arguments.steps,
    )
    print(said)


def arm(argv: Sequence[str]) -> None:
    """A real arm: keys, show, view, home, release, record, log (docs/real-robot.md)."""

    @dataclasses.dataclass(frozen=True)
    class ArmArguments:
        """What a person does at a real arm without a policy; docs/real-robot.md first.

        keys: watch, stop, answer and take over, in a terminal of its own. show: where the arm is
        and what the cameras see; nothing moves. view: the same, live, as a page for a browser.
        home: the first motion, slow. release: after a stop, when you have looked at the arm. log
        FILE: what a session's flight recorder holds. record FOLDER: images for a classifier.
        """

        word: tyro.conf.Positional[str]  # keys, show, view, home, release, record or log
        place: tyro.conf.Positional[Path | None] = (
            None  # record: a folder; log: a file, none: the newest
        )
        settings: Path | None = None  # the arm's YAML file; none: that of $IREVLA_ARM

    arguments = parse(ArmArguments, argv, prog="irevla arm")

    from irevla.robot.commands import arm_command
    from irevla.robot.settings import settings_path

    arm_command(arguments.word, arguments.settings or settings_path(), arguments.place)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "run": run,
    "reproduce": reproduce,
    "eval": evaluate,
    "collect": collect,
    "data": data,
    "tasks": tasks,
    "report": report,
    "push": push,
    "pretrain": pretrain,
    "ask": ask,
    "classifier": classifier,
    "bench": bench,
    "arm": arm,
}
