"""The target `safetensors`: a folder of ours, which every command takes where it takes a run (`folder.py`)."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from umt_ds.exchange.compare import Outputs, Probe, outputs_of
from umt_ds.exchange.folder import write_settings
from umt_ds.exchange.source import Source, left_out, open_source
from umt_ds.exchange.targets import Options, Plan, Written
from umt_ds.jobs.eval_runs import find_runs
from umt_ds.weights.exported import CLASSES, CONFIG, VOCABULARY

_WEIGHTS = "model{suffix}.safetensors"  # as transformers calls them
_INDEX = "model.safetensors.index.json"
_WHOLE = 1 << 62  # bytes: one file


def plan(source: Source, options: Options) -> Plan:
    """See `Target`."""
    shards = _shards(source, options)
    files = {name: f"{len(names)} tensors" for name, names in shards.filename_to_tensors.items()}
    files |= {_INDEX: "which of them holds which tensor"} if shards.is_sharded else {}
    files |= {CONFIG: "the settings of its run"}
    files |= {VOCABULARY: "its word pieces"} if source.text is not None else {}
    files |= {CLASSES: f"the names of its {len(source.classes)} classes"} if source.classes else {}
    return Plan(files, left_out(source))


def write(source: Source, folder: Path, options: Options) -> Written:
    """See `Target`."""
    shards = _shards(source, options)
    state = source.state
    for file, names in shards.filename_to_tensors.items():
        save_file({name: state[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / _INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    write_settings(source, folder)
    return Written(_USAGE, left_out(source))


def run(folder: Path, source: Source, probe: Probe, options: Options) -> Outputs:
    """See `Target`."""
    (found,) = find_runs([str(folder)], judged=False)
    return outputs_of(open_source(found), probe)


def _shards(source: Source, options: Options):  # type: ignore[no-untyped-def]
    return split_torch_state_dict_into_shards(
        dict(source.state), filename_pattern=_WEIGHTS, max_shard_size=options.max_shard_bytes or _WHOLE
    )


_USAGE = """\
Every command of umt_ds takes this folder where it takes a run:

```
umt eval FOLDER --shards SET --kind knn
umt train RUN init.weights=FOLDER
```

Its weights are safetensors in the names of umt_ds/METHOD.md, "Names of weights"."""
