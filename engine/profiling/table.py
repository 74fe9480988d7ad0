"""A profile as a table: each part of a step beside its floor."""

from dataclasses import dataclass

from tresse.data.text_table import format_table

GAPS = "gaps"


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a step went on the first rank; seconds are means over the traced steps."""

    recipe: str
    device: str
    """Name of the GPU, or cpu."""
    num_ranks: int
    tokens: int
    """Tokens of a step on one rank."""
    num_micro: int
    """Micro-batches of a step on one rank."""
    step_s: float
    waited_s: float
    """Seconds that the host waited for packed rows."""
    busy_s: float
    """Seconds in which the device did anything."""
    hidden_s: float
    """Seconds of communication behind other kernels."""
    parts: dict[str, float]
    """Seconds of each part."""
    floors: dict[str, float]
    """Least seconds of each part at the rates of this machine."""
    matmul_flops: float
    """Rate of a large matrix product on this machine, FLOP/s."""
    copy_bytes: float
    """Rate of a large copy, bytes read plus written per second."""
    peak_bytes: int
    """Peak memory: of the GPU's tensors, or of the process."""
    predicted_bytes: int
    """Memory that `tresse plan` predicts."""


def format_profile(profile: Profile) -> str:
    """Return the table of parts, the longest first, then the gaps."""
    gaps = max(0.0, profile.step_s - profile.busy_s)
    times = sorted(profile.parts.items(), key=lambda item: -item[1])
    lines = [["part", "ms", "share", "floor ms", "floor / time"]]
    lines += [_line(profile, name, value) for name, value in [*times, (GAPS, gaps)] if value]
    total = sum(profile.floors.values())
    lines.append(["step", _ms(profile.step_s), "", _ms(total), f"{total / profile.step_s:.0%}"])
    tokens_per_s = profile.num_ranks * profile.tokens / profile.step_s
    head = (
        f"{profile.recipe} on {profile.num_ranks} x {profile.device}: {profile.tokens:,} tokens a "
        f"step and rank in {profile.num_micro} micro-batches, {tokens_per_s:,.0f} tokens/s while "
        "traced"
    )
    return f"{head}\n{format_table(lines)}\n{_notes(profile)}"


def _line(profile: Profile, name: str, seconds: float) -> list[str]:
    floor = profile.floors.get(name)
    share = f"{seconds / profile.step_s:.1%}"
    ratio = f"{floor / seconds:.0%}" if floor else "-"
    return [name, _ms(seconds), share, _ms(floor) if floor else "-", ratio]


def _notes(profile: Profile) -> str:
    hidden = f"communication behind other kernels: {_ms(profile.hidden_s)} ms\n" * bool(
        profile.hidden_s
    )
    return (
        f"{hidden}floors: FLOPs at {profile.matmul_flops / 1e12:,.2f} TFLOP/s or bytes at "
        f"{profile.copy_bytes / 1e9:,.0f} GB/s, measured now; the host waited "
        f"{_ms(profile.waited_s)} ms for rows\n"
        f"memory: {profile.peak_bytes / 1e9:.2f} GB at the peak, predicted "
        f"{profile.predicted_bytes / 1e9:.2f} GB"
        + " for tensors; the process has more"
        * (profile.device == "cpu")
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"
