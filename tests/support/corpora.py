"""The corpora of retrieval and questions in small: files in their official form over tiny videos under official names,
laid out as `data_prep/CORPORA.md` says, and the commands that stand there.

Each training table has two videos at least, which are not those of its test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.paths import REPO
from tests.support.videos import write_video

LSMDC = [f"1004_Juno_00.00.{second}.000-00.00.{second + 4}.000" for second in (10, 20, 30, 40)]
MSVD = ["-4wsuPCjDBc_5_15", "f_9Won2JpOEU_60_80", "zzit5b_-ukg_5_20", "04Gt01vatkk_248_265", "0hyZ__3YhZc_289_295"]
DIDEMO = [f"1001556{number}@N08_3655084291_d8b58466fa.mov" for number in range(6)]
ACTIVITYNET = ["v_uqiMw7tQ1Cc", "v_-bXdq2zI1Ms", "v_1QIUV7WYKXg", "v_niCub7u60Qw"]
MSRVTT = {"video0": "train", "video1": "validate", "video7010": "test", "video7011": "test"}
SSV2 = [
    {"id": "62211", "label": "spinning soap", "template": "Spinning [something]", "placeholders": ["soap"]},
    {"id": "63095", "label": "spinning a key", "template": "Spinning [something]", "placeholders": ["a key"]},
    {"id": "36585", "label": "plastic falling", "template": "[Something] falling", "placeholders": ["plastic"]},
]
SSV2_TEST = {
    "label": [{"video": ["9741.webm", "1420.webm"], "caption": "cup falling"}],
    "template": [{"video": ["9741.webm", "1420.webm"], "caption": "[Something] falling"}],
}


def write_corpora(folder: Path) -> None:
    """All of them: videos and files of annotations."""
    _msrvtt(folder / "msrvtt")
    _msvd(folder / "msvd")
    _lsmdc(folder / "lsmdc")
    _didemo(folder / "didemo")
    _activitynet(folder / "activitynet")
    _ssv2(folder / "ssv2")


def commands(folder: Path) -> list[list[str]]:
    """The words of each command of CORPORA.md up to its page on AVA, in order; `~` is `folder`."""
    page = (REPO / "data_prep" / "CORPORA.md").read_text().partition("\n## AVA")[0]
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", page, re.M | re.S)
    telling = "umt-data() { printf '%s\\037' umt-data \"$@\"; echo; }\numt() { printf '%s\\037' umt \"$@\"; echo; }\n"
    said = subprocess.run(
        ["bash", "-euc", telling + "".join(blocks)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line.split("\037")[:-1] for line in said.splitlines()]


def _msrvtt(there: Path) -> None:
    _videos(there / "videos", [f"{name}.mp4" for name in MSRVTT])
    videos = [{"video_id": name, "split": split, "id": n} for n, (name, split) in enumerate(MSRVTT.items())]
    said = [{"video_id": name, "caption": f"a {n} of {name}", "sen_id": n} for n in range(2) for name in MSRVTT]
    _json(there / "MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": said})
    train, test = list(MSRVTT)[:2], list(MSRVTT)[2:]
    _lines(there / "MSRVTT_train.9k.csv", "video_id", *train)
    pairs = [f"ret{n},msr{name[5:]},{name},a man of {name}" for n, name in enumerate(test)]
    _lines(there / "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence", *pairs)
    choices = [f"option {n}" for n in range(5)]
    _json(there / "msrvtt_mc_test.json", [{"video": f"{name}.mp4", "caption": choices, "answer": 3} for name in test])
    for split, names in (("train", train), ("val", test[:1]), ("test", test)):
        asked = [_asked(n, name, video_id=int(name[5:]), id=n) for n, name in enumerate(names)]
        _json(there / "qa" / f"{split}_qa.json", asked)


def _msvd(there: Path) -> None:
    _videos(there / "YouTubeClips", [f"{name}.avi" for name in MSVD])
    said = [f"{name} {n} dogs run" for name in MSVD for n in ("two", "some")]
    _lines(there / "AllVideoDescriptions.txt", "# Descriptions of the corpus", "", *said)
    for split, names in (("train", MSVD[:2]), ("val", MSVD[2:3]), ("test", MSVD[3:])):
        _lines(there / f"{split}_list.txt", *names)
    _lines(there / "qa" / "youtube_mapping.txt", *(f"{name} vid{n}" for n, name in enumerate(MSVD, start=1)))
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4, 5))):
        asked = [_asked(n, "it", video_id=n, id=n) for n in numbers]
        _json(there / "qa" / f"{split}_qa.json", asked)


def _lsmdc(there: Path) -> None:
    _videos(there / "videos" / "1004_Juno", [f"{name}.avi" for name in LSMDC])
    times = "\t".join(["00.00.10.000", "00.00.14.000"] * 2)
    sentences = [f"{name}\t{times}\tSOMEONE runs {n}." for n, name in enumerate(LSMDC)]
    _lines(there / "LSMDC16_annos_training.csv", *sentences[:2])
    _lines(there / "LSMDC16_annos_val.csv", sentences[2])
    _lines(there / "LSMDC16_challenge_1000_publictect.csv", *sentences[2:])
    options = "\t".join(f"Sentence {n}." for n in range(5))
    choices = [f"{name}\t{times}\t{options}\t5" for name in LSMDC[2:]]
    _lines(there / "LSMDC16_multiple_choice_test_randomized.csv", *choices)


def _didemo(there: Path) -> None:
    _videos(there / "videos", DIDEMO)
    for split, names in (("train", DIDEMO[:2]), ("val", DIDEMO[2:4]), ("test", DIDEMO[4:])):
        rows = [
            {"num_segments": 6, "description": f"a {what} jumps", "times": [[1, 1]], "video": name, "annotation_id": n}
            for n, what in enumerate(("cat", "dog"))
            for name in names
        ]
        _json(there / f"{split}_data.json", rows)


def _activitynet(there: Path) -> None:
    _videos(there / "videos", [f"{name}.mp4" for name in ACTIVITYNET])
    for file, names in (("train", ACTIVITYNET[:2]), ("val_1", ACTIVITYNET[2:])):
        said = {
            name: {"duration": 1.2, "timestamps": [[0, 0.5], [0.4, 1.2]], "sentences": ["Lifting.", f"  He is {n}."]}
            for n, name in enumerate(names)
        }
        _json(there / f"{file}.json", said)
    for split, names in (("train", ACTIVITYNET[:2]), ("val", ACTIVITYNET[2:]), ("test", ACTIVITYNET[2:])):
        ids = {f"{name}_{n}": name for name in names for n in (1, 2)}
        asked = [{"video_name": name[2:], "question": "is it red", "question_id": one} for one, name in ids.items()]
        _json(there / "qa" / f"{split}_q.json", asked)
        answers = [{"answer": "yes", "type": 3, "question_id": one} for one in ids]
        _json(there / "qa" / f"{split}_a.json", answers)


def _ssv2(there: Path) -> None:
    tested = [name for name in SSV2_TEST["label"][0]["video"]]
    _videos(there / "20bn-something-something-v2", [*(f"{row['id']}.webm" for row in SSV2), *tested])
    _json(there / "labels" / "train.json", SSV2)
    for text, rows in SSV2_TEST.items():
        _json(there / f"ssv2_ret_{text}_val_small.json", rows)


def _asked(number: int, what: str, **fields: Any) -> dict[str, Any]:
    return {**fields, "question": f"what is {what} doing", "answer": ("run", "jump")[number % 2], "category_id": 1}


def _videos(folder: Path, names: Sequence[str]) -> None:
    """One tiny video under all names: what a file is shows in its bytes."""
    folder.mkdir(parents=True)
    first = write_video(folder.parent / "video.mp4", frames=14)
    for name in names:
        shutil.copyfile(first, folder / name)


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
