"""``ilp demo``: a planted world from nothing to its diagnosis, with the planted truth beside what was found."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import click

FOLDER = Path("mlruns/demo")
MODEL = "ilp-demo"


@click.command()
@click.option(
    "--family", type=click.Choice(["qwen2", "llama", "olmo2"]), default="qwen2", show_default=True, help="Model family."
)
@click.option("--seed", type=click.IntRange(min=0), default=100, show_default=True, help="Seed of world and training.")
@click.option(
    "--plugin-dir", "plugin_dirs", type=click.Path(path_type=Path), multiple=True, help="Folder with plugins."
)
def demo(family: str, seed: int, plugin_dirs: tuple[Path, ...]) -> None:
    """Build a small world with planted causes, fine-tune a tiny model on it, register it and diagnose it.

    Takes about three minutes on one core. Everything it makes lies under mlruns/.
    """
    import torch

    from ilp_service.benchmark.recipe import BuiltWorld, build_world
    from ilp_service.diagnosis.request import DiagnosisRequest
    from ilp_service.diagnosis.run import diagnose
    from ilp_service.settings import load_settings
    from ilp_service.tracking.store import Tracking

    started = time.monotonic()
    # At this size a second thread costs more than it gives.
    torch.set_num_threads(1)
    world: BuiltWorld = build_world(
        FOLDER / f"{family}-{seed}", family=family, seed=seed, size="demo", sft_seed=seed, progress=_Stages().show
    )
    say(f"world: {world.data} ({world.facts['rows']} rows), base and tuned {family} model in {world.base.parent}")
    tracking = Tracking()
    with tracking.run("demo: register", tags={"ilp.kind": "training"}, attach=False) as run:
        trajectory = run.log_file(world.trajectory)
        registered = run.register(
            MODEL, folder=world.model, base=world.base.resolve(), tags={"ilp.trajectory": trajectory}
        )
    say(f"registered as {registered.resolved}")
    result = diagnose(
        DiagnosisRequest(
            model_uri=registered.resolved, data=world.data, settings=load_settings(), plugin_dirs=plugin_dirs
        ),
        say,
    )
    from ilp_service.benchmark.recipe import read_truth

    truth = dict(zip(*(read_truth(world.truth).column(n).to_pylist() for n in ("sample_id", "cause")), strict=True))
    summary = result.summary
    click.echo(
        f"\n{summary['unlearned']} of {summary['samples']} samples are unlearned ({summary['unlearned_rate']:.1%}).\n"
    )
    unlearned = result.attributions.select(["sample_id", "cause"]).to_pylist()
    click.echo(
        comparison([(truth[row["sample_id"]], row["cause"]) for row in unlearned], truth, list(summary["causes"]))
    )
    click.echo(f"report:  {summary['artifacts']['report']}")
    click.echo(f"run:     {summary['run_id']} in experiment 'ilp'; 'make ui' shows it at http://127.0.0.1:5000")
    click.echo(f"seconds: {time.monotonic() - started:.0f}")


def say(line: str) -> None:
    """One line of progress, on stderr."""
    click.echo(line, err=True)


class _Stages:
    """A bar on stderr for the stage that is going on."""

    def __init__(self) -> None:
        self._name = ""
        self._shown = 0.0

    def show(self, stage: str, done: int, total: int) -> None:
        """Redraw at most four times a second; one line a stage where stderr is no terminal."""
        if not sys.stderr.isatty():
            if stage != self._name:
                print(f"{stage} ...", file=sys.stderr, flush=True)
            self._name = stage
            return
        if stage != self._name or done == total or time.monotonic() - self._shown > 0.25:
            end = "\n" if done == total else ""
            print(f"\r{stage}: {done}/{total}   ", end=end, file=sys.stderr, flush=True)
            self._name, self._shown = stage, time.monotonic()


def comparison(found: list[tuple[str, str]], truth: dict[str, str], causes: list[str]) -> str:
    """What was found beside what was planted, one line a planted cause.

    Args:
        found: Planted cause and attributed cause of every unlearned sample.
        truth: Planted cause of every sample.
        causes: Names of the causes, in the order of the table.
    """
    planted, unlearned = Counter(truth.values()), Counter(cause for cause, _ in found)
    attributed = Counter(cause for _, cause in found)
    right = Counter(cause for cause, said in found if cause == said)
    lines = [f"{'cause':<26}{'attributed':>11}{'planted':>9}{'of these unlearned':>20}{'found again':>13}"]
    for cause in causes:
        share = f"{right[cause] / unlearned[cause]:.0%}" if unlearned[cause] else "-"
        lines.append(f"{cause:<26}{attributed[cause]:>11}{planted[cause]:>9}{unlearned[cause]:>20}{share:>13}")
    lines.append(f"{'unattributed':<26}{attributed['unattributed']:>11}")
    controls = unlearned["control"] / max(planted["control"], 1)
    lines.append(
        f"\nNothing was planted on {planted['control']} controls; {unlearned['control']} of them ({controls:.1%}) are "
        "unlearned. "
        f"{planted['set_aside']} rows carry a plant for others ({unlearned['set_aside']} unlearned).\n"
    )
    return "\n".join(lines)
