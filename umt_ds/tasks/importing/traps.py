"""What a person should know of a weight file before using it: where its name and its content disagree, and what is
known of the published files.

Source: METHOD.md, "Files of weights", and the threads of the authors' repository that the sentences name.
"""

from __future__ import annotations

from collections.abc import Iterator

from umt_ds.tasks.importing.fit import Fit
from umt_ds.tasks.importing.identify import Identity
from umt_ds.tasks.importing.releases import CLASSES, RELEASES, SAID_AS, FileKind, Release
from umt_ds.weights.file import WeightFile

_SIZES = {768: "B", 1024: "L"}
_HEADS = {count: name for name, count in CLASSES.items()}
_SET_NAMES = {
    "k400": "Kinetics-400", "k600": "Kinetics-600", "k700": "Kinetics-700", "k710": "Kinetics-710",
    "mitv1": "Moments in Time v1", "ssv2": "Something-Something v2", "ava": "AVA v2.2",
}  # fmt: skip
_AVERAGES = frozenset({"model_ema", "ema", "state_dict_ema", "ema_state_dict", "model_state_dict_ema"})
_WITH_CLASSES: tuple[FileKind, ...] = ("recognition", "detection")


def traps(identity: Identity, claim: Release | None, file: WeightFile, fit: Fit) -> list[str]:
    """Sentences. claim: what its name says."""
    return [
        *_of_its_name(identity, claim),
        *_of_its_head(identity, claim),
        *_of_its_kind(identity),
        *_of_its_form(file, fit),
    ]


def likely(identity: Identity, claim: Release | None) -> tuple[str, ...]:
    """The releases that it may be: the one of its name, if its content agrees, else all of its kind and size."""
    if claim is not None and _agrees(identity, claim):
        return (claim.name,)
    return tuple(release.name for release in RELEASES if _agrees(identity, release))


def _agrees(identity: Identity, release: Release) -> bool:
    if (release.kind, release.width) != (identity.kind, identity.encoder.width) or identity.preset is None:
        return False
    frames, side = (identity.clip[0].frames, identity.clip[0].side) if identity.clip else (8, 224)
    of_kinetics = release.kind in _WITH_CLASSES
    return not of_kinetics or (release.classes, release.frames, release.side) == (identity.classes, frames, side)


def _of_its_name(identity: Identity, claim: Release | None) -> Iterator[str]:
    if claim is None:
        return
    if claim.kind != identity.kind:
        told = f"by its name it is {SAID_AS[claim.kind]}, by its tensors {SAID_AS[identity.kind]}"
        if (claim.kind, identity.kind) == ("stage2", "question_answering"):
            told += (
                ": the authors' b16_25m.pth was once a file of question answering (their thread 26): download it again"
            )
        yield told
    here = _SIZES.get(identity.encoder.width)
    if here is not None and claim.width != identity.encoder.width:
        told = f"by its name it is UMT-{_SIZES[claim.width]}, by its tensors UMT-{here}"
        linked = claim.width == 1024 and (claim.data, claim.kind) in {
            ("ssv2_tpl", "retrieval"), ("msvd", "question_answering")
        }  # fmt: skip
        yield told + (": the authors' link to this L file leads to a B file" if linked else "")
    if identity.clip is None and claim.frames not in (None, 8) and claim.kind == identity.kind:
        yield (
            f"its name says {claim.frames} frames, and it holds no table of positions: files of {claim.frames} frames "
            "were published with one"
        )
    if identity.clip is not None and claim.frames not in (None, identity.clip[0].frames):
        yield f"its name says {claim.frames} frames, its table of positions is for {identity.clip[0].frames}"
    if claim.side is not None and identity.clip is not None and claim.side != identity.clip[0].side:
        yield f"its name says {claim.side} px, its table of positions is for {identity.clip[0].side}"


def _of_its_head(identity: Identity, claim: Release | None) -> Iterator[str]:
    if identity.kind not in _WITH_CLASSES or identity.classes is None:
        return
    of = _HEADS.get(identity.classes)
    if claim is not None and claim.classes not in (None, identity.classes):
        yield f"by its name its head has {claim.classes} rows ({_SET_NAMES[claim.data]}), and it has {identity.classes}"
    if of == "k710":
        yield (
            "its head has the 710 classes of Kinetics-710: for Kinetics-400 a run takes the first 400 rows, for 600 "
            "and 700 those of the same names"
        )
    if of == "ssv2" and claim is not None and "ftk710" in claim.name:
        yield "its name says that it was fine-tuned on Kinetics-710 first; the authors' settings start from stage 1"
    if of is None:
        yield f"a head of {identity.classes} classes is none of a published file: a run has to name the classes"


def _of_its_kind(identity: Identity) -> Iterator[str]:
    if identity.frame_depth > 1:
        yield (
            f"its patches are {identity.frame_depth} frames deep; the models here, and all that UMT published, take "
            "patches of one frame"
        )
    if identity.kind == "detection" and "norm.weight" not in identity.state:
        yield (
            "it has no last norm: a classifier of Kinetics has fc_norm in its place, so detection starts with a norm "
            "that changes nothing"
        )
    if identity.kind == "encoder" and "norm.weight" not in identity.state:
        yield "it has no last norm, as it comes from a classifier: recognition needs none, stages 1 and 2 do"
    if identity.kind == "retrieval":
        yield (
            "it has no word head, as fine-tuned files of retrieval: it can be evaluated and fine-tuned for retrieval, "
            "and not start question answering"
        )


def _of_its_form(file: WeightFile, fit: Fit) -> Iterator[str]:
    for name in ("float16", "bfloat16"):
        if count := fit.dtypes.get(name):
            yield f"{count} tensors are {name}, the model is float32: numbers were rounded when they were saved"
    if averages := sorted(_AVERAGES & set(file.beside)):
        yield f"it holds an average of the weights too ({', '.join(averages)}), which is not read"
    if "param_shapes" in file.beside or "ds_version" in file.beside:
        yield (
            "it is DeepSpeed's file of a rank, in the precision of training; the float32 weights lie beside it in "
            "files *zero_pp_rank_*, and the script zero_to_fp32.py of that folder joins them"
        )
