"""The shipped run that a published weight file belongs to, by its tensors: so that a file can be exported by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from umt_ds.config.tasks.base import ClipShape
from umt_ds.errors import WeightsError
from umt_ds.models.positions import BASE_FRAMES, BASE_SIDE
from umt_ds.tasks.recognition.weights import computed_clip
from umt_ds.weights.load import about, read_state
from umt_ds.weights.names import bare_names
from umt_ds.weights.published import encoder_parts, has_answer_decoder, is_video_text

_SIZES = {(768, 12): "b16", (1024, 24): "l16"}  # width and depth of an encoder
_CORPORA = {400: "k400", 600: "k600", 700: "k700", 710: "k710", 339: "mit", 174: "ssv2"}  # by rows of the head
_PATCHES, _TABLE = "patch_embed.proj.weight", "pos_embed"
NAME_IT = "name the run that it belongs to, and the file with --weights"


def run_of_file(path: Path, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The shipped run to which a file belongs, and the overrides with which it is that model. overrides: that the user
    gives; they come after those. Raises WeightsError for a file that cannot be read, and as `run_of_state`."""
    state = read_state(path)
    with about(path):
        recipe, given = run_of_state(state)
    if any(override.startswith("task.text.vocabulary=") for override in overrides):
        given.append("task.text.weights=random")  # of BERT nothing else is needed than its words
    return recipe, [f"init.weights={path}", *given, *overrides]


def run_of_state(state: Mapping[str, Tensor]) -> tuple[str, list[str]]:
    """The shipped run to which tensors belong, and the overrides with which it is that model.

    Raises WeightsError for tensors that are none of UMT's, or of another size than B and L, whose number of heads no
    tensor tells.
    """
    encoder = encoder_parts(state)[0]
    patch, depth = encoder[_PATCHES], len({name.split(".")[1] for name in encoder if name.startswith("blocks.")})
    size = _SIZES.get((patch.shape[0], depth))
    if size is None:
        raise WeightsError(
            f"its encoder has {depth} blocks of width {patch.shape[0]}, which is neither B nor L", hint=NAME_IT
        )
    folder, corpus = _family(state, encoder)
    return f"{folder}/{size}_{corpus}", list(_classifier(encoder, patch.shape[-1]))


def _family(state: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> tuple[str, str]:
    """The folder of runs, and the corpus in the name of one: of a classifier that with as many classes."""
    if has_answer_decoder(state):
        return "question_answering/msrvtt", "25m"
    if is_video_text(state):
        has_words = any(name.startswith("text_encoder.cls.") for name in bare_names(state))
        return ("stage2" if has_words else "retrieval/msrvtt"), "25m"
    if (head := encoder.get("head.weight")) is not None:
        return "recognition", _CORPORA.get(len(head), "k400")
    return "stage1", "k710"


def _classifier(encoder: Mapping[str, Tensor], patch: int) -> Iterator[str]:
    """Of a classifier its classes, and the clip that its table of positions was computed for."""
    head, table = encoder.get("head.weight"), encoder.get(_TABLE)
    if head is None:
        return
    yield f"task.classes={len(head)}"
    if table is not None:
        base = ClipShape(BASE_FRAMES, BASE_SIDE)
        found = computed_clip(table, width=table.shape[-1], patch=patch, bases=(base,))
        if found is None:
            raise WeightsError(f"its table of positions {tuple(table.shape)} was learned", hint=NAME_IT)
        yield f"task.encoder.frames={found[0].frames}"
        yield f"task.encoder.image_size={found[0].side}"
