"""counterpoint train"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of *.jsonl(.xz) records.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for checkpoints and the model.")
@click.option("--no-resume", is_flag=True, help="Refuse to go on from a checkpoint that is there.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all by default.")
@click.option("--no-compile", is_flag=True, help="Without torch.compile: slower, bit for bit repeatable.")
@click.option("--stop-after", type=click.IntRange(min=1), help="End with a checkpoint at this step.")
def command(
    config: Path,
    data: Path,
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
        config,
        out=out,
        data=data,
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
