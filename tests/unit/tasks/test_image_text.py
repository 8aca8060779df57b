"""The pocket CLIP of the demo: its contrastive loss, and that its image tower can be a teacher."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from umt_ds.batch import Batch, Tokens
from umt_ds.config.models import TowerConfig
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.image_text import ClipTextConfig, ImageTextConfig
from umt_ds.errors import DecodeError
from umt_ds.losses.contrastive import contrastive_loss
from umt_ds.models.teachers import build_teacher
from umt_ds.tasks.image_text import task as image_text
from umt_ds.tasks.image_text.task import ClipToo, ImageTextInputs, ImageTextModule, ImageTextTask, Tokenizer
from umt_ds.weights.published import teacher_state

TOWER = TowerConfig(image_size=16, patch_size=8, width=32, layers=2, heads=2, out_width=12)
CONFIG = ImageTextConfig(
    kind="image_text", tower=TOWER, text=ClipTextConfig(width=32, layers=1, heads=2, context_length=8)
)
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
TEMPERATURE = torch.tensor([0.1])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task() -> ImageTextTask:
    return ImageTextTask(CONFIG, seed=0, device=torch.device("cpu"))


@pytest.fixture
def module(task: ImageTextTask) -> ImageTextModule:
    return task.module


def unit_rows(rows: int, width: int = 6, *, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def inputs(*captions: str, seed: int = 0) -> ImageTextInputs:
    images = torch.randn(len(captions), 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return ImageTextInputs(images, Tokenizer(8)(list(captions)).ids)


# ---------------------------------------------------------------- the loss


def loop_loss(visual: Tensor, text: Tensor, temperature: float, same: list[list[bool]]) -> float:
    """METHOD.md, "VTC", with plain numbers: each row's log-softmax, averaged over its positives, both ways."""
    rows = len(visual)
    similar = [[float(v @ t) / temperature for t in text] for v in visual]
    total = 0.0
    for i in range(rows):
        for line in (similar[i], [similar[j][i] for j in range(rows)]):
            log_sum = math.log(sum(math.exp(s) for s in line))
            positives = [j for j in range(rows) if same[i][j]]
            total += sum(log_sum - line[j] for j in positives) / len(positives) / rows / 2
    return total


@pytest.mark.parametrize("positives", [[], [(0, 2)], [(0, 2), (1, 3), (0, 4), (2, 4)]])
def test_the_loss_is_that_of_a_loop(positives: list[tuple[int, int]]) -> None:
    same = torch.eye(5, dtype=torch.bool)
    for i, j in positives:
        same[i, j] = same[j, i] = True
    visual, text = unit_rows(5, seed=1), unit_rows(5, seed=2)
    loss = contrastive_loss(visual, text, temperature=TEMPERATURE, same=same)
    assert float(loss) == pytest.approx(loop_loss(visual, text, 0.1, same.tolist()), rel=1e-5)


def test_unrelated_vectors_cost_the_logarithm_of_the_batch() -> None:
    """All similarities equal: every row guesses one of eight."""
    vectors = unit_rows(1).expand(8, -1)
    loss = contrastive_loss(vectors, vectors, temperature=TEMPERATURE, same=torch.eye(8, dtype=torch.bool))
    assert float(loss) == pytest.approx(math.log(8), rel=1e-6)


def test_matching_pairs_cost_nearly_nothing_and_crossed_pairs_much() -> None:
    axes = torch.eye(4)
    same = torch.eye(4, dtype=torch.bool)
    assert float(contrastive_loss(axes, axes, temperature=TEMPERATURE, same=same)) < 1e-3
    assert float(contrastive_loss(axes, axes.roll(1, 0), temperature=TEMPERATURE, same=same)) > 9.9


def test_the_loss_is_computed_in_fp32() -> None:
    visual, text = unit_rows(4, seed=1).bfloat16(), unit_rows(4, seed=2).bfloat16()
    same = torch.eye(4, dtype=torch.bool)
    loss = contrastive_loss(visual, text, temperature=TEMPERATURE, same=same)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, contrastive_loss(visual.float(), text.float(), temperature=TEMPERATURE, same=same), rtol=1e-6, atol=0
    )


# ---------------------------------------------------------------- the module


def test_the_loss_of_a_batch_is_that_of_its_unit_vectors(module: ImageTextModule) -> None:
    batch = inputs("a red disc", "a blue square", "a green star")
    with torch.no_grad():
        images = F.normalize(module.visual(batch.images), dim=-1)
        texts = F.normalize(module.text.encode_text(batch.tokens), dim=-1)
    expected = loop_loss(images, texts, 0.07, torch.eye(3, dtype=torch.bool).tolist())
    assert module(batch).total.item() == pytest.approx(expected, rel=1e-5)


def test_equal_captions_are_positives_of_one_another(module: ImageTextModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from outside: while their embeddings are equal, too, the value of the loss would not show it."""
    seen: list[Tensor] = []

    def spy(images: Tensor, texts: Tensor, *, temperature: Tensor, same: Tensor) -> Tensor:
        seen.append(same)
        return images.sum() * 0

    monkeypatch.setattr(image_text, "contrastive_loss", spy)
    module(inputs("a red disc", "a blue square", "a red disc"))
    assert seen[0].tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_training_on_pairs_makes_them_match() -> None:
    module = ImageTextTask(CONFIG, seed=1, device=torch.device("cpu")).module
    batch = inputs("a red disc", "a blue square", "a green star", "a white ring")
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        total = module(batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[0] > 0.9 * math.log(4), "untrained, it guesses"
    assert losses[-1] < 0.2, "trained, it knows the four pairs by heart"


def test_every_parameter_has_a_dimension_and_learns(module: ImageTextModule) -> None:
    """DeepSpeed cannot hold 0-dimensional parameters; one without gradient would be dead weight."""
    module.zero_grad()
    module(inputs("a red disc", "a blue square", "a green star")).total.backward()
    assert [name for name, p in module.named_parameters() if p.ndim == 0] == []
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
    assert [tuple(p.shape) for name, p in module.named_parameters() if "temperature" in name] == [(1,)]


def test_the_losses_to_log_are_detached_scalars(module: ImageTextModule) -> None:
    losses = module(inputs("a red disc", "a blue square"))
    assert losses.parts.keys() == {"contrastive", "temperature"}
    assert all(part.shape == () and not part.requires_grad for part in losses.parts.values())
    assert losses.total.requires_grad
    assert float(losses.parts["temperature"]) == pytest.approx(0.07)


def test_the_temperature_stays_exact_when_the_module_is_cast() -> None:
    module = ImageTextTask(CONFIG, seed=0, device=torch.device("cpu")).module.bfloat16()
    asked = inputs("a red disc", "a blue square")
    losses = module(replace(asked, images=asked.images.bfloat16()))
    assert float(losses.parts["temperature"]) == pytest.approx(0.07, abs=1e-8)
    assert module.temperature.item() != pytest.approx(0.07, abs=1e-4)


def test_the_temperature_has_a_floor() -> None:
    module = ImageTextTask(CONFIG, seed=0, device=torch.device("cpu")).module
    with torch.no_grad():
        module.temperature.fill_(-1.0)
    assert float(module(inputs("a", "b")).parts["temperature"]) == pytest.approx(0.01)


# ---------------------------------------------------------------- the task


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> Tensor:
        torch.rand(seed + 1)  # whatever was drawn before
        return ImageTextTask(CONFIG, seed=seed, device=torch.device("cpu")).module.visual.conv1.weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_the_image_tower_is_a_teacher(task: ImageTextTask) -> None:
    """Names and numbers: its targets are the trained tower's own last block, normed, projected, unit length."""
    state = {key: value.clone() for key, value in task.module.state_dict().items()}
    visual = teacher_state(state)
    assert visual.keys() == {key.removeprefix("visual.") for key in state if key.startswith("visual.")}
    teacher = build_teacher(TOWER.open_clip_config(), layers=1, state=visual)
    pixels = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = teacher.attend(pixels).targets(torch.arange(4).expand(2, 4))  # [1,2,4,12], all four patches

    blocks: list[Tensor] = []
    tower = task.module.visual
    with torch.no_grad(), tower.transformer.resblocks[-1].register_forward_hook(lambda *io: blocks.append(io[-1])):
        tower(((pixels[:, 0] / 255 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2))
        expected = F.normalize(tower.ln_post(blocks[0][:, 1:]) @ tower.proj, dim=-1)
    torch.testing.assert_close(targets[0], expected, rtol=0, atol=1e-5)


def test_prepare_takes_the_one_frame_and_normalises_it(task: ImageTextTask) -> None:
    pixels = torch.randint(0, 256, (2, 1, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    text = Tokenizer(8)(["a red disc", "a blue square"])
    rows = torch.arange(2)
    prepared = task.prepare(Batch("image", pixels, draws=rows, slots=rows, keys=("a", "b"), text=text), step=0)
    red = (float(pixels[1, 0, 5, 7, 0]) / 255 - 0.485) / 0.229  # ImageNet's mean and deviation of red
    assert prepared.images.shape == (2, 3, 16, 16)
    assert float(prepared.images[1, 0, 5, 7]) == pytest.approx(red, abs=1e-5)
    assert torch.equal(prepared.tokens, text.ids)


def test_matrices_decay_and_the_temperature_does_not(task: ImageTextTask) -> None:
    decayed, others = task.parameter_groups(OptimConfig(lr=1.0, lr_rule="absolute", weight_decay=0.1))
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert any(p is task.module.temperature for p in others["params"])
    assert all(p.ndim > 1 for p in decayed["params"])


def test_tokens_are_padded_to_the_context_and_long_captions_lose_their_end() -> None:
    tokens: Tokens = Tokenizer(8)(["a disc", "a red disc that moves to the left and then up and away"])
    assert tokens.ids.shape == tokens.mask.shape == (2, 8)
    assert tokens.mask.sum(dim=1).tolist() == [4, 8], "start, two words, end; and a full line"
    assert (tokens.ids[0, 4:] == 0).all()
    assert tokens.ids[1, -1] == tokens.ids[0, 3], "the end is there even then: the tower reads it"


HALF = "a red \ud83d disc"  # as JSON's "\ud83d" gives it


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer(8)


def test_half_a_character_is_no_caption_for_clip_either(words: Tokenizer) -> None:
    for tokenizer in (words, ClipToo(words)):
        with pytest.raises(DecodeError, match="half a character"):
            tokenizer.clean(HALF)


@pytest.mark.parametrize("caption", ["", " ", "\x00", "&nbsp;", "\x00 &nbsp;\n"])
def test_a_caption_that_clip_cleans_to_nothing_says_nothing(words: Tokenizer, caption: str) -> None:
    assert words.clean(caption) == ""


def test_a_caption_of_a_megabyte_costs_clip_its_beginning(words: Tokenizer) -> None:
    """Byte pairs of one word cost the square of its length."""
    long = words.clean("a red disc that moves to the left and then " * 30_000)
    assert len(long) < 1000
    assert torch.equal(words([long]).ids, words(["a red disc that moves to the left and then"]).ids)
    assert words([words.clean("".join(chr(97 + i * i % 26) for i in range(10**6)))]).mask.all()


@pytest.mark.parametrize("caption", ["a\x00b", "\U0001f600", "&amp;&lt;&#xD83D;", "<start_of_text>"])
def test_odd_captions_have_tokens(words: Tokenizer, caption: str) -> None:
    assert words([words.clean(caption)]).mask.sum() > 2


@pytest.mark.parametrize("caption", ["\u200f", "\u0301", " \u200b "])
def test_captions_without_ink_are_empty(words: Tokenizer, caption: str) -> None:
    assert words.clean(caption) == ""
