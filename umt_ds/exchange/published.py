"""The target `published`: a file in the names and shapes of UMT's released checkpoints, which the authors' code loads.

Source: METHOD.md, "Names of weights". The inverse of `weights.published`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from umt_ds.exchange.compare import Outputs, Probe, outputs_of
from umt_ds.exchange.source import Form, Source, open_source
from umt_ds.exchange.targets import Options, Plan, Wrap, Written
from umt_ds.jobs.eval_runs import EvalRun

FILE = "weights.pth"
# Under which key a release keeps its weights: the authors' loaders of stage 2 and later ask for `model`, those before
# take a flat file.
_WRAP: Mapping[Form, Wrap] = {"student": "flat", "classifier": "flat", "video_text": "model", "answering": "model"}
_WORDS = "embeddings.word_embeddings.weight"


def plan(source: Source, options: Options) -> Plan:
    """See `Target`."""
    state = published_state(source)
    return Plan({FILE: f"{len(state)} tensors"}, _notes(source))


def write(source: Source, folder: Path, options: Options) -> Written:
    """See `Target`."""
    state = {name: value.contiguous() for name, value in published_state(source).items()}
    wrap = options.wrap or _WRAP[source.form]
    torch.save(state if wrap == "flat" else {wrap: state}, folder / FILE)
    return Written(_USAGE, _notes(source))


def run(folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
    """See `Target`: read by the loader of published files, `weights.published`."""
    config = source.config.model_copy(update={"init": source.config.init.model_copy(update={"weights": folder / FILE})})
    return outputs_of(open_source(EvalRun(source.run.name, config, None)), probe)


def published_state(source: Source) -> dict[str, Tensor]:
    """The tensors of a model under published names; those that are tied share their numbers."""
    state = dict(source.state)
    if "temp" in state:
        state["temp"] = state["temp"].reshape(())
    for prefix in ("text_encoder.", "text_decoder."):
        state = _with_bert(state, prefix)
    return state


def _with_bert(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """BERT as the release has it: numbers of positions; with a word head the tied decoder, without one no `bert.`."""
    words = state.get(f"{prefix}bert.{_WORDS}")
    if words is None:
        return state
    positions = state[f"{prefix}bert.embeddings.position_embeddings.weight"]
    more = {f"{prefix}bert.embeddings.position_ids": torch.arange(len(positions))[None]}
    head = f"{prefix}cls.predictions."
    if f"{head}bias" in state:
        more |= {f"{head}decoder.weight": words, f"{head}decoder.bias": state[f"{head}bias"]}
        return state | more
    return {name.replace(f"{prefix}bert.", prefix): value for name, value in (state | more).items()}


def _notes(source: Source) -> tuple[str, ...]:
    parts = sorted({name.rpartition(".")[0] for name in source.fresh})
    return (f"The weights held nothing of {', '.join(parts)}: these are not written.",) if parts else ()


_USAGE = f"""\
`{FILE}` has the names and shapes of UMT's released files: give its path where the authors' code takes one
(`vision_encoder.pretrained`, `pretrained_path`, what fine-tuning starts from), or here:

```
umt train RUN init.weights=FOLDER/{FILE}
```"""
