"""`scaling plan`: what a study would train, and what that costs."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from experiments.cli.app import File, Number, StudyPath, app
from experiments.cli.join.devices import ON_NO_DEVICE, DeviceOptions
from experiments.cli.output import TO_TERMINAL, Outputs


@app.command
def plan(
    study: StudyPath,
    /,
    *,
    measured: File = None,
    compile_for: Annotated[str | None, arg(name="compile", metavar="CHIPS")] = None,
    max_flops: Number = None,
    output: Outputs = TO_TERMINAL,
    cost: Annotated[DeviceOptions, OmitArgPrefixes] = ON_NO_DEVICE,
) -> None:
    """Show what a study would train and what that costs, before anything is trained.

    The table has one row per run: shape, parameters, tokens, steps, rates, FLOPs, and the estimated
    time and memory of one worker on this machine, or the time on the devices named. Below it are
    the layout of each size on the devices, and whether it fits. All errors in a study are reported
    together, with values that would be accepted: a warmup above 20% of a run, more tokens than the
    corpus has, duplicate runs, a grid that cannot identify the law the study names. Checks that
    need no text come first; then the corpus is tokenised, once.

        scaling plan experiments/quickstart.toml
        scaling plan experiments/accelerator.toml --device h100-sxm tpu-v5p --count 8 --mfu 0.4
        scaling plan experiments/accelerator.toml --compile tpu-v5e:2x4

    Args:
        measured: A file that benchmarks/accelerator.py --json wrote on your device; it replaces
            --mfu.
        compile_for: Compile the step that needs the most memory for these chips of a TPU, such as
            tpu-v5e:2x4, and print the memory it needs. No TPU is needed, only the extra `tpu`.
        max_flops: Refuse a study that would train more FLOPs than this.
        cost: Layout, time and cost of the whole grid on other devices. Without --mfu, the share of
            the peak is what was measured in bfloat16 at each size (benchmarks/results), if it was.
    """
    from experiments.cli.join.costs import bill_of
    from experiments.cli.join.placement import compiled_largest, placed_here, placed_on, places_for
    from experiments.cli.join.plan import plan_file, refuse_above
    from experiments.cli.render.plan import Shown, plan_json, plan_text
    from experiments.cli.text import say
    from scaling.launch.slots import this_host
    from scaling.training.compiling import topology_of

    devices = cost.named(measured)
    topology = None if compile_for is None else topology_of(compile_for)
    planned = plan_file(study)
    runs = planned.plan.runs
    refuse_above(max_flops, planned.plan.flops_spent)
    bills = (bill_of(planned.plan, each, cost, measured) for each in devices)
    places = None if devices else places_for(runs, this_host())
    shown = Shown(
        planned=planned,
        devices=tuple(devices),
        placings=tuple(placed_on(runs, each, cost.count) for each in devices)
        if places is None
        else (placed_here(runs, places),),
        bills=tuple(bill for bill in bills if bill is not None),
        count=cost.count,
        workers=1 if places is None else len(places.slots),
        compiled=None if topology is None else compiled_largest(runs, topology),
    )
    output.write(plan_json(shown))
    print(plan_text(shown))
    if not any(placing.too_large for placing in shown.placings):
        say(f"Next: scaling run {study}")
