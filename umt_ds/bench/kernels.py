"""`umt bench kernels`: each kernel against what it replaces, at the sizes of the two students and their teachers.

Ways take turns, so that whatever else the machine does slows each of them alike. On a GPU the cache is emptied before
each call, and events on the device take the time. Bytes and operations are predicted: what must move at least once,
what the formula multiplies. Without a GPU the torch references are measured, and the Triton kernels are compiled.

Shapes: B clips, T frames of S patches, V visible tokens, D width, H heads, C width of the targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from umt_ds.bench.machine import aligned, spread
from umt_ds.kernels.align_loss import align_loss
from umt_ds.kernels.align_loss import reference as align_reference
from umt_ds.kernels.attention import Lengths, flash, fused
from umt_ds.kernels.attention import reference as attention_reference
from umt_ds.kernels.backend import choose
from umt_ds.kernels.embed_visible import embed_visible
from umt_ds.kernels.embed_visible import reference as embed_reference
from umt_ds.kernels.keep_tokens import keep_tokens
from umt_ds.kernels.keep_tokens import reference as keep_reference
from umt_ds.kernels.launch import Launch, compile_for

PACKAGES = ("torch", "triton", "flash-attn")  # for the header
FRAMES, PATCHES, VISIBLE = 8, 196, 40  # of a frame, as published: 80 % are hidden
HEAD_WIDTH = 64
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CACHE_BYTES = 256 << 20  # more than any chip's
_WARM_UPS = 3  # compile, choose algorithms, take memory


Way = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """A student and the CLIP that teaches it: width and heads are the same for both."""

    name: str
    width: int
    out_width: int
    teacher_patch: int
    teacher_side: int

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH


SIZES = (Size("B", 768, 512, 16, 224), Size("L", 1024, 768, 14, 196))


@dataclass(frozen=True)
class Cost:
    """What a call must move at least, and compute."""

    bytes: float
    flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def __str__(self) -> str:
        return f"{self.bytes / 1e6:,.2f} MB, {self.flops / 1e9:,.3f} GFLOP"


@dataclass(frozen=True)
class Case:
    """One kernel at one size. ways: by name. leaves: inputs with gradients. launches: of its Triton kernels."""

    title: str
    ways: dict[str, Way]
    forward: Cost
    backward: Cost | None = None
    leaves: tuple[Tensor, ...] = ()
    launches: Callable[[], dict[str, Launch]] = dict


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each round, and the bytes that a call with backward needs beside its inputs (0: unknown)."""

    forward: list[float]
    both: list[float]
    peak: int


# ---------------------------------------------------------------- the cases


class Setup(NamedTuple):
    """Of all cases. On the meta device nothing can run, but kernels can be compiled."""

    clips: int
    device: torch.device
    dtype: torch.dtype


def all_cases(setup: Setup) -> Iterator[Case]:
    """Every kernel, at the sizes B and L, one after the other: each takes its memory when it is asked for."""
    clips, visible = setup.clips, FRAMES * VISIBLE
    for size in SIZES:
        student, teacher = f"student {size.name}", f"teacher {size.name}"
        yield _embed(student, setup, patch=16, side=224, visible=visible, width=size.width)
        yield _embed(teacher, setup, patch=size.teacher_patch, side=size.teacher_side, visible=None, width=size.width)
        yield _align(size, setup)
        yield _attention(student, setup, sequences=clips, tokens=visible, heads=size.heads)
        yield _attention(teacher, setup, sequences=clips * FRAMES, tokens=PATCHES + 1, heads=size.heads)
        yield _packed(size, setup)
    yield _keep(setup)


def _embed(model: str, setup: Setup, *, patch: int, side: int, visible: int | None, width: int) -> Case:
    """The student's, of `visible` patches with positions and gradients, or the teacher's, of all without."""
    clips, device, dtype = setup
    count, fan = FRAMES * (side // patch) ** 2, 3 * patch**2
    pixels = torch.randint(0, 256, (clips, FRAMES, side, side, 3), dtype=torch.uint8, device=device)
    learns = visible is not None
    weight = (torch.randn(width, fan, device=device) / fan**0.5).to(dtype).requires_grad_(learns)
    bias = torch.zeros(width, device=device, dtype=dtype, requires_grad=learns)
    keep = positions = None
    if visible is not None:
        keep = torch.rand(clips, count, device=device).argsort(dim=1)[:, :visible].sort(dim=1).values
        positions = torch.randn(count, width, device=device)

    def call(embed: Callable[..., Tensor]) -> Way:
        return lambda: embed(pixels, keep, weight, bias, positions, patch=patch, mean=_MEAN, std=_STD)

    def launches() -> dict[str, Launch]:
        from umt_ds.kernels.embed_visible import triton

        folded = (weight.detach(), bias.detach())
        out = triton.empty_tokens(pixels, keep, folded[0], patch=patch)
        return {"embed": triton.launch(pixels, keep, *folded, positions, out, patch=patch, mean=_MEAN)}

    tokens = clips * (visible or count)
    once = tokens * fan + (weight.numel() + tokens * width) * dtype.itemsize  # pixels, weight, tokens
    indices = 8 * tokens + 4 * count * width if learns else 0  # keep and positions
    product = 2 * tokens * fan * width
    patches = f"{visible or count} of {count} patches of {patch} x {patch}"
    return Case(
        f"embed_visible, {model}: {clips} clips, {patches}, {width} wide",
        _ways(call, reference=embed_reference.embed_visible, door=embed_visible, device=device),
        forward=Cost(once + indices, product),
        # pixels and gradients as forward; patches are written, and read by the product
        backward=Cost(once + 2 * tokens * fan * dtype.itemsize, product) if learns else None,
        leaves=(weight, bias) if learns else (),
        launches=launches,
    )


def _align(size: Size, setup: Setup) -> Case:
    clips, device, dtype = setup
    shape = (clips, FRAMES * VISIBLE, size.out_width)
    hidden, target = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    hidden.requires_grad_()
    weight = torch.ones(size.out_width, device=device, dtype=dtype, requires_grad=True)
    bias = torch.zeros(size.out_width, device=device, dtype=dtype, requires_grad=True)

    def call(distance: Callable[..., Tensor]) -> Way:
        return lambda: distance(hidden, weight, bias, target, eps=1e-6)

    def launches() -> dict[str, Launch]:
        from umt_ds.kernels.align_loss import triton

        rows = hidden.detach().flatten(0, 1)
        out = triton.Rows.like(rows)
        scale = torch.empty((), device=device)
        return {
            "rows": triton.rows_launch(rows, weight.detach(), bias.detach(), target.view_as(rows), out, eps=1e-6),
            "scale": triton.scale_launch(out.hidden, scale, rows),
        }

    once = hidden.numel() * dtype.itemsize
    return Case(
        f"align_loss {size.name}: {clips * shape[1]} rows of {size.out_width}",
        _ways(call, reference=align_reference.align_loss, door=align_loss, device=device),
        forward=Cost(3 * once, 30 * hidden.numel()),  # hidden, target, and the gradient at once
        backward=Cost(2 * once, hidden.numel()),  # the gradient times a number
        leaves=(hidden, weight, bias),
        launches=launches,
    )


def _keep(setup: Setup) -> Case:
    clips, device, _ = setup
    attention = torch.rand(clips, FRAMES, PATCHES + 1, device=device)[:, :, 1:]
    slots = torch.arange(clips, device=device)

    def call(keep: Callable[..., Tensor]) -> Way:
        return lambda: keep(attention, seed=0, step=0, slots=slots, visible=VISIBLE)

    def launches() -> dict[str, Launch]:
        from umt_ds.kernels.keep_tokens import triton

        out = torch.empty(clips, FRAMES * VISIBLE, dtype=torch.int64, device=device)
        return {"keep": triton.launch(attention, out, seed=0, step=0, slots=slots, visible=VISIBLE)}

    frames = clips * FRAMES
    # noise is made twice, about 90 operations a patch each; four for each pair
    operations = frames * PATCHES * (2 * 90 + 4 * PATCHES)
    return Case(
        f"keep_tokens: {frames} frames, {VISIBLE} of {PATCHES}",
        _ways(call, reference=keep_reference.keep_tokens, door=keep_tokens, device=device),
        forward=Cost(frames * (4 * PATCHES + 8 * VISIBLE), operations),
        launches=launches,
    )


def _ways(
    call: Callable[[Callable[..., Tensor]], Way],
    *,
    reference: Callable[..., Tensor],
    door: Callable[..., Tensor],
    device: torch.device,
) -> dict[str, Way]:
    """The reference, and before it the door where that leads to Triton."""
    return ({"Triton": call(door)} if choose(device.type).triton else {}) | {"torch": call(reference)}


def _attention(model: str, setup: Setup, *, sequences: int, tokens: int, heads: int) -> Case:
    batch = _three(sequences, tokens, heads, HEAD_WIDTH, setup=setup)
    ways: dict[str, Way] = {
        f"flash-attn {version}": partial(flash.attention, *batch, version=version) for version in _flash(setup)
    }
    ways["torch's own"] = lambda: fused.attention(*batch)
    ways["reference"] = lambda: attention_reference.attention(*batch)
    title = f"attention, {model}: {sequences} sequences of {tokens}, {heads} heads"
    return Case(title, ways, *_attention_cost(batch[0], [tokens] * sequences), batch)


def _packed(size: Size, setup: Setup) -> Case:
    """Half the tokens from clips, half from images, as one step of stage 2 may hold."""
    clips, images = setup.clips, FRAMES * setup.clips
    lengths = Lengths((FRAMES * VISIBLE,) * clips + (VISIBLE,) * images)
    row = _three(lengths.total, size.heads, HEAD_WIDTH, setup=setup)
    ways: dict[str, Way] = {
        f"flash-attn {version}": partial(flash.attention_packed, *row, lengths, version=version)
        for version in _flash(setup)
    }
    ways["torch's own"] = lambda: fused.attention_packed(*row, lengths)
    ways["reference"] = lambda: attention_reference.attention_packed(*row, lengths)
    title = f"attention_packed {size.name}: {clips} clips of {FRAMES * VISIBLE} and {images} images of {VISIBLE} tokens"
    return Case(title, ways, *_attention_cost(row[0], lengths.tokens), row)


def _three(*shape: int, setup: Setup) -> tuple[Tensor, Tensor, Tensor]:
    made = (torch.randn(shape, device=setup.device).to(setup.dtype).requires_grad_() for _ in range(3))
    query, key, value = made
    return query, key, value


def _attention_cost(query: Tensor, tokens: Sequence[int]) -> tuple[Cost, Cost]:
    """Two products forward, five backward; four and eight tensors of the size of the queries."""
    once = query.numel() * query.element_size()
    product = 2 * sum(length**2 for length in tokens) * query.shape[-2] * query.shape[-1]
    return Cost(4 * once, 2 * product), Cost(8 * once, 5 * product)


def _flash(setup: Setup) -> list[flash.Version]:
    """All that run here, not the fastest only."""
    if flash.choose(setup.device, setup.dtype, HEAD_WIDTH).version is None:
        return []
    return flash.installed(setup.device, HEAD_WIDTH)[0]


# ---------------------------------------------------------------- measuring


def measure_kernel(case: Case, *, rounds: int, device: torch.device) -> dict[str, Timing]:
    """Every way `rounds` times forward, and forward with backward, in turns."""
    timings = {way: Timing([], [], _peak(case, call, device)) for way, call in case.ways.items()}
    clock = _DeviceClock(device) if device.type == "cuda" else _cpu_ms
    for number in range(-_WARM_UPS, rounds):
        for way, call in case.ways.items():
            forward = clock(call)
            both = clock(partial(_with_backward, case, call)) if case.leaves else 0.0
            if number >= 0:
                timings[way].forward.append(forward)
                timings[way].both.append(both)
    return timings


def _with_backward(case: Case, call: Way) -> None:
    out = call()
    torch.autograd.grad(out, case.leaves, torch.ones_like(out))


def _cpu_ms(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


class _DeviceClock:
    """Milliseconds of a call on a GPU, with nothing of its inputs in the cache."""

    def __init__(self, device: torch.device) -> None:
        self._cache = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._cache.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        ms: float = begin.elapsed_time(end)
        return ms


def _peak(case: Case, call: Way, device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    if case.leaves:
        _with_backward(case, call)
    else:
        call()
    return torch.cuda.max_memory_allocated(device) - before


def table(case: Case, timings: dict[str, Timing]) -> str:
    """A case as text: what is predicted, then a line for each way."""
    both = case.forward + case.backward if case.backward else None
    rows = [("way", "forward ms", "GB/s", "GFLOP/s", "with backward ms", "GB/s", "GFLOP/s", "peak MB")]
    for way, timing in timings.items():
        peak = f"{timing.peak / 1e6:,.1f}" if timing.peak else "-"
        rows.append((way, *_speed(timing.forward, case.forward), *_speed(timing.both, both), peak))
    predicted = f"predicted: forward {case.forward}" + (f"; with backward {both}" if both else "")
    return "\n  ".join([case.title, predicted, *aligned(rows)])


def _speed(ms: list[float], cost: Cost | None) -> tuple[str, str, str]:
    if cost is None:
        return "-", "-", "-"
    middle = median(ms)
    return spread(ms, 3), f"{cost.bytes / middle / 1e6:,.1f}", f"{cost.flops / middle / 1e6:,.0f}"


# ---------------------------------------------------------------- compiling ahead of time


def compiled(capabilities: Sequence[int], *, clips: int) -> str:
    """What the assembler says of every Triton kernel in bf16: a line for each size and chip. Needs no GPU."""
    if find_spec("triton") is None:
        return "Triton is not installed: nothing to compile"
    rows = [("kernel", "chip", "registers", "stack bytes", "shared bytes", "of")]
    for case in all_cases(Setup(clips, torch.device("meta"), torch.bfloat16)):
        for name, launch in case.launches().items():
            for capability in capabilities:
                built = compile_for(launch, capability)
                numbers = (str(built.registers), str(built.stack), str(built.shared))
                rows.append((name, f"sm_{capability}", *numbers, case.title))
    return "\n".join(["compiled ahead of time; bytes of stack are spilled registers", *aligned(rows)])
