"""The first hits of a text in the order in which the fusion encoder, which reads the text while it looks at the clip,
has them. The clips are read again: an index does not hold what the fusion encoder looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from umt_ds.errors import DataError, UmtError, shown
from umt_ds.search.clips_found import frames_of
from umt_ds.search.hits import Hit
from umt_ds.search.model import SearchModel


def reranked(hits: Sequence[Hit], text: str, model: SearchModel) -> list[Hit]:
    """Hits of a clean text by the logit of class 1 of the matching head, the largest first; equal ones as they were.

    Raises DataError where a clip is not there any more. Source: METHOD.md, "Retrieval".
    """
    retriever = model.retriever
    tokens = retriever.tokenizer([text])
    states = retriever.encode_texts(tokens)
    is_token = tokens.mask.to(states.device)
    matched = []
    for hit, frames in zip(hits, frames_of(hits, model.request), strict=True):
        if isinstance(frames, UmtError):
            raise DataError(
                f"{shown(hit.key)}, which is to be re-ranked, cannot be read: {frames.what}",
                hint="put the clips back where they were embedded; or leave --rerank away",
            ) from frames
        looked = retriever.look(retriever.encode_videos(frames[None]))
        matched.append(replace(hit, match=float(retriever.match(states, is_token, looked)[0])))
    ordered = sorted(matched, key=lambda hit: -(hit.match or 0.0))
    return [replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1)]
