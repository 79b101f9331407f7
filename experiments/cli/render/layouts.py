"""How the sizes of a plan are laid out on devices, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.text import bytes_text, duration, human, paragraph
from experiments.cli.join.placement import CompiledStep, Placed, Placing, is_tight
from experiments.cli.text import rows_text
from scaling.planning.deriving import better_batch
from scaling.spec import shape_text


def placing_text(placing: Placing) -> list[str]:
    """One row per size: how it is laid out and what it needs; one line where all are alike.

    A warning follows for each batch size that divides only into small microbatches.
    """
    target, lines = placing.target, []
    memory = ""
    if target.memory is not None:
        memory = f", with {bytes_text(target.memory)} for each ({placing.source})"
    if len({layout_line(each) for each in placing.sizes}) == 1:
        most = bytes_text(placing.needed or 0.0)
        said = f"{layout_line(placing.sizes[0])}; at most {most} on each device{memory}"
        lines.append(paragraph(f"Layout of every size on {placing.name}: {said}."))
    elif placing.sizes:
        rows = {
            (each.run.architecture, each.run.model, each.layout): {
                "shape": shape_text(each.run.architecture, each.run.model),
                "N total": human(each.run.params.total),
                **layout_cells(each),
                "on each": bytes_text(each.memory.total) + " (tight)" * is_tight(each, target),
            }
            for each in placing.sizes
        }
        lines += [f"Layouts on {placing.name}{memory}:", *rows_text(rows.values()).splitlines()]
    lines += [paragraph(f"Does not fit {placing.name}: {said}") for said in placing.too_large]
    if target.memory is not None and not placing.too_large:
        tight = ", but some may not: an estimate can be 15% too low"
        lines.append(f"Every size fits{tight if placing.verdict == 'tight' else ''}.")
    warnings = [
        f"warning: a device's share of batch_sequences = {each.run.batch_sequences} divides into "
        f"microbatches of {each.layout.sequences} × {each.run.sequence_length:,} tokens, and "
        f"{placing.name} could take more than four times as many, which are faster. Give "
        f"batch_sequences = {batch}."
        for each in placing.sizes
        if (batch := better_batch(each.run, target, each.layout)) is not None
    ]
    return [*lines, *map(paragraph, dict.fromkeys(warnings))]


def layout_cells(placed: Placed) -> dict[str, str]:
    """A layout by its columns; a microbatch is sequences × tokens on each device."""
    layout, execution = placed.layout, placed.layout.execution
    whole = layout.devices == 1
    return {
        "microbatch": f"{layout.sequences} × {placed.run.sequence_length:,}",
        "per step": f"{layout.accumulate}",
        "layers": execution.layers,
        "remat": execution.remat,
        "loss": execution.loss,
        "attention": execution.attention,
        "state": "whole" if whole
        else {"data": "whole on each", "fsdp": "a share each"}[layout.sharding],
        "steps per call": f"{layout.steps_per_call}",
    }  # fmt: skip


def layout_line(placed: Placed) -> str:
    """A layout in one line."""
    return ", ".join(f"{name} {cell}" for name, cell in layout_cells(placed).items())


def placing_json(placing: Placing) -> dict[str, Any]:
    """The layouts and the estimates as JSON values; bytes on each device."""
    return {
        "device": placing.name,
        "platform": placing.target.platform,
        "count": placing.target.devices,
        "memory_bytes": placing.target.memory,
        "memory_source": placing.source,
        "needed_bytes": placing.needed,
        "verdict": placing.verdict,
        "too_large": list(placing.too_large),
        "sizes": [
            {
                "run_id": each.run.run_id,
                "shape": shape_text(each.run.architecture, each.run.model),
                "params_total": each.run.params.total,
                "layout": asdict(each.layout),
                "memory": {**asdict(each.memory), "total": each.memory.total},
            }
            for each in placing.sizes
        ],
    }


def compiled_text(step: CompiledStep) -> str:
    """One sentence: what was compiled, what it needs, and whether it fits."""
    run, compiled, estimate = step.size.run, step.compiled, step.size.memory.total
    return (
        f"Compiled for {step.topology.name} in {duration(compiled.seconds)}: the largest step "
        f"({human(run.params.total)} parameters; {layout_line(step.size)}) needs "
        f"{bytes_text(compiled.needed)} on each chip of {bytes_text(step.topology.device.memory)}, "
        f"and {'fits' if step.fits else 'does not fit'}. The estimate is {bytes_text(estimate)}."
    )


def compiled_json(step: CompiledStep) -> dict[str, Any]:
    """The same as JSON values; bytes on each chip."""
    return {
        "topology": step.topology.name,
        "run_id": step.size.run.run_id,
        "estimated_bytes": step.size.memory.total,
        **asdict(step.compiled),
        "memory_bytes": step.topology.device.memory,
        "fits": step.fits,
    }
