"""What the card of an export says about loading it: code that a test runs. `FOLDER` is where the export lies."""

from __future__ import annotations

_TIMM = """\
```python
import timm, torch

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
frames = torch.randint(256, (1, {frames}, 3, {side}, {side}))  # yours: batch, frames, RGB, height, width; 0 … 255
mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    logits = model(((frames / 255 - mean) / std).transpose(1, 2).flatten(2, 3))  # frames one above the other
print(model.pretrained_cfg["label_names"][logits[0].argmax()])
```

Frames are resized before: their short side to {side} pixels, bilinear, then the centre is cut. Published models were
tested on frames that OpenCV resized, which has no antialias.
"""

_PIXELS = """\
frames = list(numpy.random.randint(256, size=({frames}, 240, 320, 3), dtype="uint8"))  # yours, RGB
processor = VideoMAEImageProcessor.from_pretrained("FOLDER"{subfolder})
pixels = processor(frames, return_tensors="pt").pixel_values  # batch, frames, RGB, height, width"""

_CLASSIFIER = (
    """\
```python
import numpy, torch
from transformers import AutoModelForImageClassification, VideoMAEImageProcessor

model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()
"""
    + _PIXELS
    + """
with torch.no_grad():
    logits = model(pixels.transpose(1, 2).flatten(2, 3)).logits  # the frames of a clip stand one above the other
print(model.config.id2label[logits[0].argmax().item()])
```
"""
)

_VIDEO = (
    """\
```python
import numpy, torch
from transformers import VideoMAEImageProcessor, VideoMAEModel

encoder = VideoMAEModel.from_pretrained("FOLDER"{subfolder}).eval()
"""
    + _PIXELS
    + """
with torch.no_grad():
    features = encoder(pixels).last_hidden_state  # batch, tokens, width; tokens of frame 0 first, row by row
```

`bool_masked_pos` hides tokens, as pretraining does. Frames are the middle ones of {frames} equal parts of a video.
"""
)

_TEXT = """\
```python
import torch
from transformers import AutoTokenizer, BertModel

tokenizer = AutoTokenizer.from_pretrained("FOLDER"{subfolder})
bert = BertModel.from_pretrained("FOLDER"{subfolder}, add_pooling_layer=False).eval()
tokens = tokenizer(["a man opens a box", "two dogs"], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    states = bert(**tokens).last_hidden_state  # batch, tokens, width
```

These are the layers that read text alone. This tokenizer cleans captions, begins them with `[CLS]` and writes no
`[SEP]` behind them, as in training; BERT's own tokenizer with the same `vocab.txt` would, and the vectors would differ.
"""

_VECTORS = """\
Vectors of both, and how similar they are, go on from there:

```python
import torch.nn.functional as F
from safetensors.torch import load_file

heads = load_file("FOLDER/heads.safetensors")
means = features.unflatten(1, ({frames}, -1)).mean(dim=2)  # of each frame
means = F.layer_norm(means, means.shape[-1:], heads["pool_norm.weight"], heads["pool_norm.bias"], 1e-6)
videos = F.normalize(F.linear(means, heads["vision_proj.weight"], heads["vision_proj.bias"]), dim=-1)
texts = F.normalize(F.linear(states[:, 0], heads["text_proj.weight"], heads["text_proj.bias"]), dim=-1)
print(videos.mean(dim=1) @ texts.T)  # a row for each video, a column for each text
```
"""


_ONNX_VIDEO = """\
```python
import numpy, onnxruntime

video = onnxruntime.InferenceSession("FOLDER/video.onnx")
frames = numpy.random.randint(256, size=(1, {frames}, {side}, {side}, 3), dtype="uint8")  # yours: clips, frames, …, RGB
found = dict(zip([one.name for one in video.get_outputs()], video.run(None, {{"frames": frames}})))
print({{name: array.shape for name, array in found.items()}})
```

Bytes are what it takes: they are normalised inside. Clips can be many at once; frames, height and width are fixed.
"""

_ONNX_TEXT = """\
```python
import numpy, onnxruntime
from tokenizers import Tokenizer

text = onnxruntime.InferenceSession("FOLDER/text.onnx")
length = text.get_inputs()[0].shape[1]
ids, is_token = numpy.zeros((1, length), dtype="int64"), numpy.zeros((1, length), dtype=bool)
tokens = Tokenizer.from_file("FOLDER/tokenizer.json").encode("Two dogs!").ids[:length]  # [CLS] first, no [SEP]
ids[0, : len(tokens)], is_token[0, : len(tokens)] = tokens, True
(vectors,) = text.run(None, {"ids": ids, "is_token": is_token})
```

All texts have the same length here: what is behind their tokens is not looked at where `is_token` is false.
"""


def timm_usage(*, frames: int, side: int) -> str:
    """Of a classifier as timm's ViT."""
    return _TIMM.format(frames=frames, side=side)


def classifier_usage(*, frames: int) -> str:
    """Of a classifier as TimmWrapper."""
    return _CLASSIFIER.format(frames=frames, subfolder="")


def video_mae_usage(below: str, *, frames: int) -> str:
    """Of a VideoMAEModel in the folder `below` that of the export (`video/`, or nothing)."""
    return _VIDEO.format(frames=frames, subfolder=_subfolder(below))


def bert_usage(below: str) -> str:
    """Of a BertModel and its tokenizer."""
    return _TEXT.format(subfolder=_subfolder(below))


def vectors_usage(*, frames: int) -> str:
    """Of heads.safetensors, after the two above."""
    return _VECTORS.format(frames=frames)


def _subfolder(below: str) -> str:
    return f', subfolder="{below.rstrip("/")}"' if below else ""


def onnx_video_usage(*, frames: int, side: int) -> str:
    """Of video.onnx."""
    return _ONNX_VIDEO.format(frames=frames, side=side)


def onnx_text_usage() -> str:
    """Of text.onnx and its tokenizer."""
    return _ONNX_TEXT
