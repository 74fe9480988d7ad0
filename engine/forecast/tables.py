"""A forecast as tables of text."""

from dataclasses import dataclass

from tresse.data.text_table import format_table
from tresse.engine.forecast.forecast import Forecast, Layout, memory_by_rows
from tresse.engine.forecast.memory import SHARE
from tresse.engine.forecast.step_time import Work


@dataclass(frozen=True, slots=True)
class Given:
    """What the user knows better than a forecast."""

    tokens_per_s: float | None
    """Tokens per second of a GPU, instead of the predicted ones."""
    price: float | None
    """Price of a GPU for an hour."""


def format_forecast(forecast: Forecast, given: Given) -> str:
    """Return all tables of a forecast."""
    chosen = chosen_layout(forecast)
    blocks = [_head(forecast), _stages(forecast, chosen, given), _memory(forecast)]
    if chosen:
        blocks.append(_memory_by_rows(forecast, chosen))
        blocks.append(_step(chosen))
        blocks.append(_scaling(forecast, given))
    else:
        blocks.append(
            "nothing of this fits: raise --recompute-layers, add GPUs, or offload the optimizer "
            "(--sharding.offload-optimizer)"
        )
    return "\n\n".join([*blocks, _disk(forecast)])


def chosen_layout(forecast: Forecast) -> Layout | None:
    """Return the first layout that fits, at the recipe's own ZeRO level if one does."""
    fitting = [layout for layout in forecast.layouts if layout.fits]
    own = [x for x in fitting if x.zero_stage == forecast.config.sharding.zero_stage]
    return next(iter(own or fitting), None)


def _head(forecast: Forecast) -> str:
    config, flops, gpu = forecast.config, forecast.flops, forecast.gpu
    fp8 = "; with fp8 they are those of bf16" * config.sharding.fp8
    recompute = f", {config.recompute_layers} layers recomputed" * bool(config.recompute_layers)
    return (
        f"{config.recipe}: {forecast.num_parameters:,} parameters, {flops.causal / 1e9:.2f} GFLOP "
        f"per token (causal; {flops.full / 1e9:.2f} full), rows of "
        f"{config.data.packing.row_length:,} tokens{recompute}\n"
        f"{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB; {config.sharding.precision}; times are "
        f"predicted, not measured{fp8}"
    )


def _stages(forecast: Forecast, chosen: Layout | None, given: Given) -> str:
    languages = list(dict.fromkeys(name for stage in forecast.stages for name in stage.tokens))
    lines = [["stage", "steps", *(f"M {name}" for name in languages), "EFLOP", "days", "epochs"]]
    total = sum(sum(stage.tokens.values()) for stage in forecast.stages)
    days = forecast.days(_rate(chosen, given)) if chosen else 0.0
    for stage in forecast.stages:
        tokens = sum(stage.tokens.values())
        cells = [f"{stage.tokens.get(name, 0) / 1e6:,.1f}" for name in languages]
        epochs = ", ".join(f"{name} {count:.2f}" for name, count in stage.epochs.items())
        flops = tokens * forecast.flops.causal / 1e18
        share = f"{days * tokens / total:.2f}" if chosen else "-"
        lines.append(
            [stage.name, f"{stage.num_steps:,}", *cells, f"{flops:,.1f}", share, epochs or "-"]
        )
    first = forecast.layouts[0]
    asked = forecast.config.rows_per_step
    title = f"Stages, in steps of {first.rows_per_step:,} rows"
    if first.rows_per_step != asked:
        title += f" (the recipe has {asked:,}, no multiple of {first.num_gpus} GPUs)"
    if chosen:
        title += f"; days {_place(chosen)}"
    if not forecast.stages[0].epochs:
        title += "; without --data.corpus no epochs are known"
    return f"{title}\n{format_table(lines)}"


def _rate(layout: Layout, given: Given) -> float:
    """Return the tokens per second of all GPUs, as given or as predicted."""
    if given.tokens_per_s:
        return given.tokens_per_s * layout.num_gpus
    return layout.tokens_per_s


def _memory(forecast: Forecast) -> str:
    names = ("weights", "gradients", "optimizer", "buffers", "activations", "working")
    lines = [["GPUs", "ZeRO", "micro rows", "SwiGLU kept", *names, "sum", "host", "fits"]]
    for layout in forecast.layouts:
        memory = layout.memory
        cells = [getattr(memory, name) for name in names] + [memory.device, memory.host]
        lines.append(
            [
                str(layout.num_gpus),
                str(layout.zero_stage),
                str(layout.micro_rows),
                "yes" if layout.keep_h else "no",
                *(f"{value / 1e9:.1f}" for value in cells),
                _verdict(layout),
            ]
        )
    return f"Memory of a GPU in GB, at the peak of a step\n{format_table(lines, 0)}"


def _verdict(layout: Layout) -> str:
    if layout.fits:
        return "yes"
    return f"no, {layout.largest} rows would" if layout.largest else "no"


def _memory_by_rows(forecast: Forecast, chosen: Layout) -> str:
    """Return a line per number of rows in a micro-batch."""
    lines = [["rows at once", "activations", "working", "sum", "fits"]]
    for rows, memory in memory_by_rows(forecast, chosen).items():
        values = (memory.activations, memory.working, memory.device)
        fits = "yes" if memory.device <= SHARE * forecast.gpu.memory_bytes else "no"
        lines.append([str(rows), *(f"{value / 1e9:.1f}" for value in values), fits])
    title = f"The same by rows of a micro-batch, {_place(chosen)}"
    return f"{title}\n{format_table(lines, 0)}"


def _place(layout: Layout) -> str:
    return f"on {layout.num_gpus} GPUs at ZeRO level {layout.zero_stage}"


def _step(layout: Layout) -> str:
    total = sum(layout.seconds.values())
    lines = [["part", "ms", "share", "floor ms", "TFLOP", "GB"]]
    for name, seconds in sorted(layout.seconds.items(), key=lambda item: -item[1]):
        if not seconds:
            continue
        work, floor = layout.work.get(name, Work()), layout.floors.get(name)
        lines.append(
            [
                name,
                f"{1000 * seconds:.1f}",
                f"{seconds / total:.1%}",
                f"{1000 * floor:.1f}" if floor is not None else "-",
                f"{work.flops / 1e12:,.1f}" if work.flops else "-",
                f"{work.num_bytes / 1e9:,.1f}" if work.num_bytes else "-",
            ]
        )
    floor_ms = 1000 * sum(layout.floors.values())
    lines.append(["sum", f"{1000 * total:.1f}", "", f"{floor_ms:.1f}", "", ""])
    return f"A step {_place(layout)}, predicted\n{format_table(lines)}"


def _scaling(forecast: Forecast, given: Given) -> str:
    header = ["GPUs", "ZeRO", "rows a step", "micro rows", "step ms", "exposed comm."]
    header += ["tokens/s", "per GPU", "MFU", "days", "GPU hours", *["price"] * bool(given.price)]
    lines = [header]
    for layout in forecast.layouts:
        if layout.fits:
            lines.append(_scaling_line(forecast, layout, given))
    title = "Predicted rates"
    if len({layout.rows_per_step for layout in forecast.layouts}) > 1:
        title += "; other rows a step are another batch, and another number of steps"
    if given.tokens_per_s:
        title += f"; days and hours at the given {given.tokens_per_s:,.0f} tokens/s per GPU"
    return f"{title}\n{format_table(lines, 0)}"


def _scaling_line(forecast: Forecast, layout: Layout, given: Given) -> list[str]:
    total = sum(layout.seconds.values())
    days = forecast.days(_rate(layout, given))
    hours = 24 * days * layout.num_gpus
    return [
        str(layout.num_gpus),
        str(layout.zero_stage),
        f"{layout.rows_per_step:,}",
        str(layout.micro_rows),
        f"{1000 * total:,.0f}",
        f"{layout.seconds['communication'] / total:.1%}",
        f"{layout.tokens_per_s:,.0f}",
        f"{layout.tokens_per_s / layout.num_gpus:,.0f}",
        f"{layout.mfu:.1%}" if layout.mfu else "-",
        f"{days:.2f}",
        f"{hours:,.0f}",
        *([f"{hours * given.price:,.0f}"] if given.price else []),
    ]


def _disk(forecast: Forecast) -> str:
    size, count = forecast.checkpoint_bytes, forecast.num_checkpoints
    return (
        f"Disk: {size / 1e9:.1f} GB a checkpoint, at most {count} at once: "
        f"{count * size / 1e9:,.0f} GB in the run's folder"
    )
