"""counterpoint train"""

from __future__ import annotations

from pathlib import Path

import click

from counterpoint.cli.command import Command
from counterpoint.cli.kinds import Count, Input


@click.command("train", cls=Command)
@click.argument("config", type=Input())
@click.option("--data", required=True, type=Input(folder=True), help="Folder of *.jsonl(.xz) records.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for checkpoints and the model.")
@click.option("--no-resume", is_flag=True, help="Refuse to go on from a checkpoint that is there.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=Count(1), help="CPU threads; all by default.")
@click.option("--no-compile", is_flag=True, help="Without torch.compile: slower, bit for bit repeatable.")
@click.option("--stop-after", type=Count(1), help="End with a checkpoint at this step.")
def command(
    config: str,
    data: str,
    out: Path,
    no_resume: bool,
    device: str,
    threads: int | None,
    no_compile: bool,
    stop_after: int | None,
) -> None:
    """Train a small conditional model as CONFIG (a TOML file) says; the same command goes on after a kill."""
    from counterpoint.train import run

    done = run(
        Path(config),
        out=out,
        data=Path(data),
        resume=not no_resume,
        device=device,
        threads=threads,
        compiled=not no_compile,
        stop_after=stop_after,
    )
    held = ", ".join(f"{name} {bits:.3f}" for name, bits in done.validation.items())
    click.echo(f"{done.folder}: {done.steps} steps, {done.tokens:,} tokens")
    if held:
        click.echo(f"held out, bits a byte: {held}")
