"""The training step on this accelerator: tokens/s, MFU, memory, and what each choice costs.

    PYTHONPATH=. python benchmarks/accelerator.py --json rows.json    # at most three minutes
    PYTHONPATH=. python benchmarks/accelerator.py --profile profile   # and where the time goes

Four models on one device, in bfloat16:

  8x512    llama, 4 heads of 128, T 2,048, V 8,192
  12x768   GPT-2 small, T 1,024, V 50,257
  24x1024  GPT-2 medium, T 1,024, V 50,257
  30M      of that size in experiments/accelerator.toml, T 2,048, V 32,768

The variant `default` is what a study gets that asks for nothing; the others change one thing of
it, at its microbatch but for plain attention, which derives its own. Where torch is installed, the
first two are also trained in its own modules (benchmarks/torch_gpt.py: torch.compile, bfloat16
autocast, scaled_dot_product_attention, fused AdamW, the vocabulary padded to 128), in turn with
ours. Every row is a process of its own, so that one that runs out of memory costs that row alone;
rows are written to --json as they come, those for which no time was left with that as their reason.

MFU is of the peak that models/devices.toml names, by the exact FLOPs with attention counted in
full and by those that a causal mask keeps. Needs jax, flax, optax, orbax-checkpoint, pydantic,
numpy, pandas and pyarrow; no network. On a CPU, or with --tiny, shapes are tiny and a minute is
enough.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from models.architecture import DEFAULT, architecture
from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.sizes import Ladder, nearest
from models.devices import expected_platform, peak_flops
from scaling.hardware import Hardware
from scaling.planning.memory import step_memory
from scaling.schedule import Schedule
from scaling.spec import Optimizer, RunSpec
from scaling.store.records import write_json
from scaling.training.flags import Slot, worker_environment

ROUNDS = 3
GRACE = 30.0  # seconds beyond the time that is given, for what is measured in any case
# Of the device's memory, for ours, where it is measured in turn with PyTorch's.
SHARE = "0.6"
FLOORS = {"8x512": 0.40, "12x768": 0.45, "24x1024": 0.45}  # MFU by the full count, on an H200
MEMORY_ERROR = 0.15  # of what is modelled, against the device's peak
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")


@dataclass(frozen=True)
class Case:
    """One model, and the batch that it is trained on."""

    name: str
    model: ModelConfig
    batch_sequences: int
    torch_sequences: int  # of a microbatch in PyTorch
    dtype: str = "bfloat16"

    @property
    def length(self) -> int:
        return self.model.context_length

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.length


@dataclass(frozen=True)
class Variant:
    """One thing that differs from what a study gets."""

    name: str = "default"
    changes: dict[str, Any] = field(default_factory=dict)  # fields of Hardware
    keeps_microbatch: bool = True  # of the default


DEFAULT_VARIANT, TORCH = Variant(), Variant("torch")
# By what is changed: a value of the execution that the default already has is no variant.
VARIANTS = (
    Variant("attention plain", {"attention": "plain"}, keeps_microbatch=False),
    Variant("deterministic", {"deterministic": True}),
    Variant("layers scanned", {"layers": "scanned"}),
    Variant("remat dots", {"remat": "dots"}),
    Variant("remat full", {"remat": "full"}),
    Variant("remat none", {"remat": "none"}),
    Variant("loss chunked", {"loss": "chunked"}),
    Variant("loss whole", {"loss": "whole"}),
)


def decoder(dialect: str, **shape: Any) -> ModelConfig:
    heads = {"n_kv_heads": shape["n_heads"], "head_dim": shape["d_model"] // shape["n_heads"]}
    fields = {**DIALECTS[dialect], **heads, "embedding_std": 0.02, **shape}
    return ModelConfig(**fields)


def cases(tiny: bool) -> dict[str, Case]:
    if tiny:
        small = {"vocab_size": 256, "context_length": 64, "d_model": 64, "n_heads": 2}
        llama = decoder("llama", n_layers=2, d_ff=176, qk_norm=True, **small)
        gpt2 = decoder("gpt2", n_layers=2, d_ff=256, **small)
        return {
            "8x512": Case("8x512", llama, 8, 8, "float32"),
            "12x768": Case("12x768", gpt2, 8, 8, "float32"),
        }
    short = {"vocab_size": 8192, "context_length": 2048, "d_model": 512, "n_heads": 4}
    eight = decoder("llama", n_layers=8, d_ff=1368, qk_norm=True, **short)
    gpt2 = {"vocab_size": 50257, "context_length": 1024}
    small = decoder("gpt2", n_layers=12, d_model=768, n_heads=12, d_ff=3072, **gpt2)
    medium = decoder("gpt2", n_layers=24, d_model=1024, n_heads=16, d_ff=4096, **gpt2)
    study = {"qk_norm": True, "head": "tied", "embedding_std": 0.02}
    ladder = Ladder(32768, 2048, "llama", 64, 80, fields=study)  # experiments/accelerator.toml
    found = (
        Case("8x512", eight, batch_sequences=64, torch_sequences=32),
        Case("12x768", small, batch_sequences=128, torch_sequences=32),
        Case("24x1024", medium, batch_sequences=64, torch_sequences=16),
        Case("30M", nearest(ladder, 30e6, "total").config, batch_sequences=64, torch_sequences=32),
    )
    return {case.name: case for case in found}


def run_of(case: Case, hardware: Hardware) -> RunSpec:
    """A run that trains the model of a case; what it is trained on is nothing here."""
    return RunSpec(
        run_id="0" * 12,
        trunk_id="0" * 12,
        run_kind="full",
        architecture=DEFAULT,
        model=case.model,
        corpus="0" * 12,
        sequence_length=case.length,
        batch_sequences=case.batch_sequences,
        seed=0,
        optimizer=Optimizer(0.9, 0.95, 0.1, 1.0),
        schedule=Schedule(1e-3, 1, 1000, "cosine", 999),
        dtype=case.dtype,  # type: ignore[arg-type]
        hardware=hardware,
        holdout_tokens=0,
        evaluate_every=1000,
        checkpoint_at=(),
        checkpoint_every=1000,
    )


# --- a row's own process ------------------------------------------------------------------------

Train = Callable[[], dict[str, Any]]  # some steps, and their tokens, seconds and peak memory


def ours(case: Case, hardware: Hardware, profile: str | None) -> tuple[dict[str, Any], Train]:
    import jax

    from scaling.training.jax_setup import configure_jax
    from scaling.training.step import program_of

    configure_jax()
    device = jax.devices()[0]
    run = run_of(case, hardware)
    program = program_of(run)
    steps = program.layout.steps_per_call
    shape = (steps, case.batch_sequences, case.length + 1)
    tokens = np.random.default_rng(0).integers(0, case.model.vocab_size, shape).astype(np.int32)
    batches = program.put_batches(tokens)
    rates = program.put_rates(np.full(steps, 1e-4, np.float32))
    start = time.perf_counter()
    compiled = program.train.lower(program.abstract, batches, rates).compile()  # type: ignore[attr-defined]
    compile_s = time.perf_counter() - start
    state = program.initial()

    def call() -> None:
        nonlocal state
        state, metrics = compiled(state, batches, rates)
        if not np.isfinite(np.asarray(metrics.loss)).all():  # waits for the device too
            raise FloatingPointError("the loss is not finite")

    def train() -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return {"tokens": calls * steps * case.batch_tokens, "s": seconds, "peak_bytes": peak}

    call()
    start = time.perf_counter()
    call()
    calls = max(1, round(seconds_of_a_round(case) / (time.perf_counter() - start)))
    if profile:
        with jax.profiler.trace(profile):
            call()
    stats = device.memory_stats() or {}
    return {
        "compile_s": compile_s,
        "modelled_bytes": step_memory(run, program.layout).total,
        "layout": asdict(program.layout),
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "memory": stats.get("bytes_limit"),
        },
    }, train


def torch(case: Case) -> tuple[dict[str, Any], Train]:
    import torch
    import torch_gpt

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sequences = case.torch_sequences
    if device == "cuda" and torch.cuda.get_device_properties(0).total_memory < 100e9:
        sequences //= 2
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = torch_gpt.Gpt(case.model, pad_to=128).to(device)
    optimizer = torch_gpt.adamw(model)
    compiled = device == "cuda"  # on a CPU it takes half a minute a model, and a compiler of C++
    loss_of = torch.compile(model) if compiled else model
    shape = (case.batch_sequences, case.length + 1)
    tokens = torch.randint(0, case.model.vocab_size, shape, device=device)
    micro = tokens.split(sequences)
    half = torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16")

    def step() -> None:
        for each in micro:
            with half:
                loss = loss_of(each[:, :-1], each[:, 1:]) / len(micro)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def train() -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        finish()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        return {"tokens": steps * case.batch_tokens, "s": seconds, "peak_bytes": peak}

    start = time.perf_counter()
    try:
        step()
    except Exception as error:  # a machine without a compiler of C, say
        if not compiled:
            raise
        print(f"torch.compile: {error}", file=sys.stderr)
        compiled, loss_of = False, model
        optimizer.zero_grad(set_to_none=True)
        step()
    finish()
    compile_s = time.perf_counter() - start
    step()
    finish()
    start = time.perf_counter()
    step()
    finish()
    steps = max(1, round(seconds_of_a_round(case) / (time.perf_counter() - start)))
    layout = {"microbatch_sequences": sequences, "compiled": compiled}
    name = TORCH.name if compiled or device == "cpu" else "torch eager"
    return {"compile_s": compile_s, "layout": layout, "variant": name}, train


def seconds_of_a_round(case: Case) -> float:
    return 2.0 if case.dtype == "bfloat16" else 0.3


def serve(case: Case, variant: str, hardware: dict[str, Any], profile: str | None) -> None:
    """Get ready, say so, and train a round for each line of the input."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: dict[str, Any]) -> None:
        channel.write(json.dumps(value) + "\n")
        channel.flush()

    try:
        if variant == TORCH.name:
            ready, train = torch(case)
        else:
            ready, train = ours(case, Hardware(**hardware), profile)
        answer(ready)
        for _ in sys.stdin:
            answer(train())
    except Exception as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        answer({"reason": f"{type(error).__name__}: {said[0][:300]}"})
        sys.exit(1)


# --- measuring ----------------------------------------------------------------------------------


class Failed(Exception):
    """Why a row has no figures."""


@dataclass(frozen=True)
class Process:
    """A row's process; every answer is a line."""

    process: subprocess.Popen[bytes]
    log: Path
    deadline: float

    def said(self, lines: int) -> str:
        """The last lines of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])

    def answer(self) -> dict[str, Any]:
        """Raises Failed where the process says why it cannot go on, or ends, or takes too long."""
        stream = self.process.stdout
        assert stream is not None
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, self.deadline - time.monotonic())
            if not select.select([stream], [], [], left)[0]:
                raise Failed("time was up")
            if not (more := os.read(stream.fileno(), 1 << 16)):
                raise Failed(f"exit code {self.process.wait()}: {self.said(1)[:300]}")
            line += more
        found = json.loads(line)
        if "reason" in found:
            raise Failed(found["reason"])
        return found

    def train(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self.answer()
        return self.answer()


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    tiny: bool
    slot: Slot
    folder: Path  # temporary
    deadline: float  # of the whole, by time.monotonic
    report: Report

    @contextmanager
    def process(
        self, case: Case, variant: Variant, in_turn: bool, profile: str | None
    ) -> Iterator[Process]:
        """The process of a row, which gets ready; measured in turn with another or alone."""
        log = self.folder / f"{case.name}.{variant.name.replace(' ', '-')}.log"
        recorded = self.folder / f"{case.name}.autotune.txt"
        algorithms = "recorded" if variant is DEFAULT_VARIANT else "fastest"
        if variant.changes.get("deterministic"):
            algorithms = "deterministic"
        environment = {
            **worker_environment(self.slot, algorithms, recorded),  # type: ignore[arg-type]
            "SCALING_CACHE": str(self.folder / "cache"),  # no program of before
        }
        if in_turn:
            environment.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)
            environment["XLA_CLIENT_MEM_FRACTION"] = SHARE
        arguments = [case.name, variant.name, json.dumps(variant.changes), profile or ""]
        command = [sys.executable, __file__, "--serve", *arguments]
        with (
            log.open("wb") as said,
            subprocess.Popen(
                [*command, "--tiny"] if self.tiny else command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            ) as process,
        ):
            try:
                grace = GRACE if variant is DEFAULT_VARIANT else 0.0
                yield Process(process, log, self.deadline + grace)
            finally:
                process.kill()

    def measure(self, case: Case, variants: list[Variant], profile: str | None = None) -> None:
        """A row a variant, measured in turn, round by round."""
        answers: dict[str, list[dict[str, Any]]] = {each.name: [] for each in variants}
        ready: dict[str, dict[str, Any]] = {}
        with ExitStack() as stack:
            running = {
                each.name: stack.enter_context(self.process(case, each, len(variants) > 1, profile))
                for each in variants
            }
            for turn in range(-1, ROUNDS):
                for name, process in list(running.items()):
                    try:
                        if turn < 0:
                            ready[name] = process.answer()
                        else:
                            answers[name].append(process.train())
                    except Failed as why:
                        del running[name]
                        print(process.said(15), file=sys.stderr, flush=True)
                        self.report.add(case, name, ready.get(name, {}), [], str(why))
        for name in running:
            self.report.add(case, name, ready[name], answers[name], None)


@dataclass
class Report:
    """The rows so far, printed and written as they come."""

    path: Path | None
    device: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        case: Case,
        variant: str,
        ready: dict[str, Any],
        answers: list[dict[str, Any]],
        reason: str | None,
    ) -> None:
        self.device = ready.get("device", self.device)
        run = run_of(case, Hardware())
        causal = architecture(DEFAULT).count_causal_flops(case.model, case.length)
        row = {
            "case": case.name,
            "dtype": case.dtype,
            "variant": ready.get("variant", variant),
            "params_total": run.params.total,
            "flops_per_token": run.flops_per_token,
            "causal_flops_per_token": float(causal.total),
            "tokens_per_s": None,
            "mfu": None,
            "mfu_causal": None,
            "peak_bytes": None,
            "modelled_bytes": ready.get("modelled_bytes"),
            "compile_s": ready.get("compile_s"),
            "layout": ready.get("layout"),
            "reason": reason,
        }
        if answers:
            rate = statistics.median(each["tokens"] / each["s"] for each in answers)
            row |= {"tokens_per_s": rate, "peak_bytes": answers[-1]["peak_bytes"]}
            if peak := peak_flops(self.device.get("kind", ""), case.dtype):
                of_all = rate / (peak * self.device["count"])
                row["mfu"] = of_all * row["flops_per_token"]
                row["mfu_causal"] = of_all * row["causal_flops_per_token"]
        self.rows.append(row)
        print(line(row), flush=True)
        self.write()

    def rate(self, case: str, variant: str) -> float | None:
        found = (row for row in self.rows if (row["case"], row["variant"]) == (case, variant))
        return next((row["tokens_per_s"] for row in found), None)

    def ratios(self) -> dict[str, float]:
        """Tokens/s of each variant over the default's, of the default over torch's; and memory."""
        made = {}
        for row in self.rows:
            own, base = row["tokens_per_s"], self.rate(row["case"], "default")
            if own and base and row["variant"].startswith(TORCH.name):
                made[f"{row['case']}: default / {row['variant']}"] = base / own
            elif own and base and row["variant"] != "default":
                made[f"{row['case']}: {row['variant']} / default"] = own / base
            elif own and row["peak_bytes"]:
                made[f"{row['case']}: modelled / peak memory"] = (
                    row["modelled_bytes"] / row["peak_bytes"]
                )
        return made

    def floors(self) -> list[str]:
        """What is asked of an H200, and whether it is there."""
        if "H200" not in self.device.get("kind", ""):
            return []
        mfu = {row["case"]: row["mfu"] for row in self.rows if row["variant"] == "default"}
        wanted = [(f"MFU of {name}", mfu.get(name), floor) for name, floor in FLOORS.items()]
        wanted += [
            (name, ratio, 1.0) for name, ratio in self.ratios().items() if name.endswith("/ torch")
        ]
        said = [
            f"{name}: {'not measured' if found is None else f'{found:.3f}'}, floor {floor:.2f}: "
            f"{'met' if found is not None and found >= floor else 'MISSED'}"
            for name, found, floor in wanted
        ]
        memory = {name: r for name, r in self.ratios().items() if name.endswith("peak memory")}
        return said + [
            f"{name}: {ratio:.3f}, within {MEMORY_ERROR:.0%}: "
            f"{'met' if abs(ratio - 1) <= MEMORY_ERROR else 'MISSED'}"
            for name, ratio in memory.items()
        ]

    def write(self) -> None:
        if self.path is not None:
            made = {
                "device": self.device,
                "versions": versions(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "rows": self.rows,
                "ratios": self.ratios(),
            }
            write_json(self.path, made)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def line(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"{row['case']:<8} {row['variant']:<16} {row['reason']}"

    def gb(name: str) -> str:
        return "?" if row[name] is None else f"{row[name] / 1e9:.1f}"

    def share(name: str) -> str:
        return "    ?" if row[name] is None else f"{row[name]:5.1%}"

    return (
        f"{row['case']:<8} {row['variant']:<16} {row['tokens_per_s']:>10,.0f} tokens/s  MFU "
        f"{share('mfu')} full, {share('mfu_causal')} causal  peak {gb('peak_bytes')} GB "
        f"(modelled {gb('modelled_bytes')})  compiled in {row['compile_s']:.0f} s"
    )


def plan_of(found: dict[str, Case], pairs: bool) -> Iterator[tuple[Case, list[Variant]]]:
    """What is measured, the most telling first; of a list, all in turn."""
    first, *others = found.values()
    main, *rest = others
    both = [DEFAULT_VARIANT, TORCH] if pairs else [DEFAULT_VARIANT]
    yield first, both
    yield main, both
    of_main = [(main, [variant]) for variant in VARIANTS]
    for case in rest:  # after each, something of the main one
        yield case, [DEFAULT_VARIANT]
        yield of_main.pop(0)
    yield from of_main
    for case in (first, *rest):
        yield from ((case, [variant]) for variant in VARIANTS)


def held(variant: Variant, layout: dict[str, Any], case: Case, on_gpu: bool) -> Variant | None:
    """A variant beside the default's layout; null where that has the very value."""
    execution = {**layout["execution"], **({"deterministic": True} if not on_gpu else {})}
    if all(execution.get(name) == value for name, value in variant.changes.items()):
        return None
    if not variant.keeps_microbatch:
        return variant
    tokens = layout["microbatch_sequences"] // layout["devices"] * case.length
    # Derived anew they might be others, for the default may have had less of the memory.
    kept = {name: layout["execution"][name] for name in ("layers", "remat", "loss")}
    return replace(variant, changes={**kept, **variant.changes, "microbatch_tokens": tokens})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here, as they come")
    parser.add_argument("--minutes", type=float, help="at most; 3, and 1 for tiny shapes")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, as on a CPU")
    parser.add_argument("--profile", type=Path, help="trace 12x768 into this folder")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kind = expected_platform()
    tiny = options.tiny or kind == "cpu"
    found = cases(tiny)
    if options.serve:
        name, variant, hardware, profile = options.serve
        serve(found[name], variant, json.loads(hardware), profile or None)
        return
    started = time.monotonic()
    deadline = started + 60 * (options.minutes or (1 if tiny else 3))
    # One device: the first that the user lets processes see.
    first = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]
    slot = Slot(kind, (first,)) if kind == "gpu" else Slot(kind)
    report = Report(options.json)
    pairs = "torch" in versions()
    if not pairs:
        print("torch is not installed: ours alone")
    if tiny:
        print("tiny shapes under the names of the four models: a trial of the script, no figures")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(tiny, slot, Path(folder), deadline, report)
        layouts: dict[str, dict[str, Any]] = {}
        longest = 0.0
        for place, (case, variants) in enumerate(plan_of(found, pairs)):
            chosen, began = variants, time.monotonic()
            if variants[0] is not DEFAULT_VARIANT:
                if case.name not in layouts:
                    report.add(case, variants[0].name, {}, [], "the default was not measured")
                    continue
                one = held(variants[0], layouts[case.name], case, kind == "gpu")
                if one is None:  # the default has that value
                    continue
                chosen = [one]
            if place > 1 and began + 0.8 * longest > deadline:  # the first two are always begun
                report.add(case, chosen[0].name, {}, [], "time was up")
                continue
            names = ", ".join(variant.name for variant in chosen)
            print(f"{case.name}: {names} (at {began - started:.0f} s)", flush=True)
            bench.measure(case, chosen)
            longest = max(longest, time.monotonic() - began)
            for row in report.rows:
                if row["variant"] == "default" and row["tokens_per_s"]:
                    layouts[row["case"]] = row["layout"]
        if options.profile:
            unbounded = replace(bench, deadline=time.monotonic() + 180, report=Report(None))
            unbounded.measure(found["12x768"], [DEFAULT_VARIANT], str(options.profile))
            print("\n".join(longest_kernels(options.profile)))
    for name, value in report.ratios().items():
        print(f"{name:<40} {value:.2f}")
    print("\n".join(report.floors()))
    print(f"{len(report.rows)} rows in {time.monotonic() - started:.0f} s")
    if all(row["tokens_per_s"] is None for row in report.rows):
        sys.exit("nothing could be measured")


def longest_kernels(folder: Path, many: int = 10) -> list[str]:
    """The kernels of a trace that took longest in all, a line each."""
    from jax.profiler import ProfileData

    total: dict[str, list[float]] = {}
    for file in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            if plane.name.startswith("/device:"):
                for each in plane.lines:
                    if each.name.startswith("Stream"):
                        for event in each.events:
                            total.setdefault(event.name, []).append(event.duration_ns / 1e6)
    ranked = sorted(total.items(), key=lambda item: -sum(item[1]))[:many]
    whole = sum(map(sum, total.values()))
    return [
        f"{sum(times):9.1f} ms {sum(times) / whole:5.1%} {len(times):6d} × {name[:90]}"
        for name, times in ranked
    ]


if __name__ == "__main__":
    main()
