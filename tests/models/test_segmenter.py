"""The segmenter: timm's own features, any size, any head, one image; its losses; images outlined at their size."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from mrm.data.masks import IGNORED
from mrm.data.samples import MaskBatch
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.segmenter import Segmenter, SegmenterConfig, probabilities, window_starts
from mrm.system.errors import CheckpointError, ConfigError, SegmenterError
from mrm.training.config import TrainConfig
from mrm.training.losses import dice_loss, focal_loss
from mrm.training.optimization import build_optimizer
from mrm.training.tasks import SegmentTask
from tests.support.configs import ENCODER

OPTIONS = {"depth": 4, "embed_dim": 48, "num_heads": 3}
MICRO = SegmenterConfig(
    ("lesion",), "vit_tiny_patch16_224", OPTIONS, image_size=(64, 96), channels=16, auxiliary=8, drop_path=0.1
)


def build(**changes) -> Segmenter:
    with noise.seeded(0):
        return Segmenter(replace(MICRO, **changes)).eval()


@pytest.mark.parametrize("encoder", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_tiny_r_s16_p8_224"])
def test_features_are_timms_own(encoder):
    options = {} if "_r_" in encoder else OPTIONS
    patch = 14 if "14" in encoder else 32 if "_r_" in encoder else 16
    model = build(encoder=encoder, encoder_options=options, image_size=(4 * patch, 6 * patch), channels=8)
    plain = timm.create_model(encoder, img_size=(4 * patch, 6 * patch), num_classes=0, **options).eval()
    plain.load_state_dict(model.encoder.state_dict(), strict=False)
    image = torch.randn(2, 3, 4 * patch, 6 * patch, generator=torch.Generator().manual_seed(0))
    wanted = [b - 1 for b in model.blocks]
    with torch.no_grad():
        theirs = plain.forward_intermediates(image, wanted, intermediates_only=True)
        for ours, expected in zip(model.features(image), theirs, strict=True):
            assert ours.shape[-2:] == (4, 6)
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        assert model(image).logits_BCHW.shape == (2, 1, 4 * patch, 6 * patch)


def test_features_come_after_the_published_blocks():
    assert Segmenter(replace(MICRO, encoder_options={**OPTIONS, "depth": 12})).blocks == (4, 6, 8, 12)
    assert build(blocks=(1, 1, 2, 2)).blocks == (1, 1, 2, 2)
    with pytest.raises(SegmenterError, match="four ascending numbers from 1 to 4"):
        build(blocks=(1, 2, 3, 5))


def test_the_published_architecture():
    """UPerNet 768 channels, pooling 1, 2, 3, 6; auxiliary head 256; 512 pixels, as the recipe says."""
    with torch.device("meta"):
        model = Segmenter(SegmenterConfig(("pneumothorax",)))
    assert model.blocks == (4, 6, 8, 12)
    assert model.encoder.patch_embed.grid_size == (32, 32)
    assert [b[0].output_size for b in model.head.decoder.psp.blocks] == [1, 2, 3, 6]
    assert model.head.decoder.fusion_block[0].weight.shape == (768, 4 * 768, 3, 3)
    assert model.auxiliary.convolution.weight.shape == (256, 768, 3, 3)
    for head in (model.head, model.auxiliary):
        assert head.dropout.p == 0.1
        assert not [m for m in head.modules() if isinstance(m, torch.nn.LayerNorm)]  # features come as they are


@pytest.mark.parametrize("head", ["upernet", "dpt", "linear"])
@pytest.mark.parametrize("size", [(64, 96), (112, 48), (32, 32)])
def test_every_head_at_any_size_with_one_image(head, size):
    model = build(head=head, image_size=size, classes=("a", "b")).train()
    SegmentTask(model).sample_keys.keys_B = torch.zeros(1, dtype=torch.int64)
    task = SegmentTask(model)
    batch = random_batch(size, 1, classes=2)
    terms = task(batch)
    sum(task.weights[k] * t.mean() for k, t in terms.items()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("head", ["upernet", "dpt"])
def test_no_layer_looks_at_the_other_images_of_the_batch(head):
    model = build(head=head).train()
    keys = SegmentTask(model).sample_keys
    image = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    keys.keys_B = torch.tensor([7, 8, 9])
    whole = model(image)
    keys.keys_B = torch.tensor([7])
    alone = model(image[:1])
    torch.testing.assert_close(whole.logits_BCHW[:1], alone.logits_BCHW, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.auxiliary_BCHW[:1], alone.auxiliary_BCHW, rtol=1e-4, atol=1e-5)


def test_a_size_that_the_patch_does_not_divide():
    with pytest.raises(ConfigError, match=r"image_size 500 x 512 does not divide .* 16 x 16 .* nearest .* 496 x 512"):
        build(image_size=(500, 512))


def test_a_checkpoint_at_224_starts_a_larger_model_with_positions_as_timm_resamples_them(tmp_path):
    small = ClassifierConfig(("a",), "vit_tiny_patch16_224", OPTIONS, image_size=224)
    folder = model_folder.save(tmp_path / "small", Classifier(small))
    given = model_folder.load(folder).encoder
    model = build(image_size=(512, 512))
    report = model_folder.start_from(model, folder)
    assert all(name.startswith(("head.", "auxiliary.")) for name in report.missing)
    expected = resample_abs_pos_embed(given.pos_embed, new_size=(32, 32), num_prefix_tokens=1)
    torch.testing.assert_close(model.encoder.pos_embed, expected, rtol=0, atol=0)
    given.set_input_size((512, 512))
    image = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = given.forward_intermediates(image, [b - 1 for b in model.blocks], intermediates_only=True)
        for ours, timms in zip(model.features(image), theirs, strict=True):
            torch.testing.assert_close(ours, timms)


def test_a_segmenter_is_a_model_folder_like_any_other(tmp_path):
    model = build(head="dpt")
    again = model_folder.load(model_folder.save(tmp_path / "model", model))
    assert again.config == model.config
    assert again.card.kind == "segmenter"
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(again(image).logits_BCHW, model(image).logits_BCHW, rtol=0, atol=0)


def test_a_folder_of_another_encoder_is_refused(tmp_path):
    other = ClassifierConfig(("a",), "vit_tiny_patch16_224", {**OPTIONS, "embed_dim": 96}, image_size=64)
    folder = model_folder.save(tmp_path / "other", Classifier(other))
    with pytest.raises(CheckpointError, match="another encoder"):
        model_folder.start_from(build(), folder)


def test_layer_decay_goes_by_depth_and_spares_the_heads():
    model = build(encoder="vit_small_patch14_reg4_dinov2", image_size=(56, 56))
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5))
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    rates = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert {v for k, v in rates.items() if not k.startswith("encoder.")} == {1.0}
    assert [rates[f"encoder.blocks.{i}.attn.qkv.weight"] for i in range(4)] == [0.0625, 0.125, 0.25, 0.5]
    for name in ("patch_embed.proj.weight", "pos_embed", "cls_token", "reg_token"):
        assert rates[f"encoder.{name}"] == 0.03125


# Losses ------------------------------------------------------------------------------------------------


def random_batch(size=(64, 96), count=4, classes=1, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, classes + 1, (count, *size)).astype(np.uint8)
    mask[:, :5] = IGNORED
    return MaskBatch(
        skipped=[],
        image_BHW=torch.from_numpy(rng.integers(0, 256, (count, *size), dtype=np.uint8)),
        mask_BHW=torch.from_numpy(mask),
        keys_B=torch.arange(count),
        index_B=torch.arange(count),
    )


def part(batch, rows):
    return MaskBatch([], *(t[rows] for t in (batch.image_BHW, batch.mask_BHW, batch.keys_B, batch.index_B)))


def test_focal_loss_is_that_of_the_libraries():
    from segmentation_models_pytorch.losses._functional import focal_loss_with_logits
    from torchvision.ops import sigmoid_focal_loss

    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.randint(0, 2, (2, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    target = mask[:, None].float()
    for gamma, alpha in ((2.0, 0.5), (1.5, 0.25)):
        term = focal_loss(logits, mask, gamma, alpha)
        torch.testing.assert_close(term.sum, sigmoid_focal_loss(logits, target, alpha, gamma, "sum"))
        torch.testing.assert_close(term.sum, focal_loss_with_logits(logits, target, gamma, alpha, "sum"))
    assert term.count == 128
    torch.testing.assert_close(focal_loss(logits, mask).sum, sigmoid_focal_loss(logits, target, 0.5, 2.0, "sum"))


def test_dice_loss_by_hand():
    """Two of four lesion pixels found with certainty, one besides: 1 - (2 * 2 + 1) / (3 + 4 + 1)."""
    logits = torch.full((1, 1, 3, 4), -50.0)
    logits[0, 0, 0, :3] = 50.0
    mask = torch.zeros(1, 3, 4, dtype=torch.uint8)
    mask[0, 0, :2] = mask[0, 1, :2] = 1
    term = dice_loss(logits, mask)
    assert term.mean().item() == pytest.approx(1 - 5 / 8)
    empty = dice_loss(torch.full((1, 1, 3, 4), -50.0), torch.zeros(1, 3, 4, dtype=torch.uint8))
    assert empty.mean().item() == pytest.approx(0.0)


def test_classes_are_told_apart_and_background_left_out():
    mask = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    right = torch.full((1, 2, 2, 2), -50.0)
    right[0, 0, 0, 1] = right[0, 1, 1, 0] = 50.0
    for loss, count in ((focal_loss, 6), (dice_loss, 2)):
        term = loss(right, mask)
        assert term.sum.item() == pytest.approx(0.0, abs=1e-6)
        assert term.count == count


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_what_is_ignored_changes_nothing(loss):
    batch = random_batch()
    logits = torch.randn(4, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[:, :, :5] += 7
    a, b = loss(logits, batch.mask_BHW), loss(other, batch.mask_BHW)
    assert (a.sum, a.count) == (b.sum, b.count)
    nothing = loss(logits, torch.full_like(batch.mask_BHW, IGNORED))
    assert (nothing.sum, nothing.count) == (0, 0)
    torch.testing.assert_close(loss(logits[:, :, 5:], batch.mask_BHW[:, 5:]).sum, a.sum)


def test_counts_are_known_before_the_pass_and_gradients_do_not_depend_on_the_division():
    batch, gradients = random_batch(classes=2), []
    for sizes in ([4], [1, 1, 1, 1], [3, 1]):
        model = build(classes=("a", "b")).train()
        task = SegmentTask(model)
        assert task.counts(batch)["focal"] == 2 * (batch.mask_BHW != IGNORED).sum()
        assert task.counts(batch)["auxiliary_dice"] == 8
        start = 0
        for size in sizes:
            piece = part(batch, slice(start, start + size))
            terms = task(piece)
            assert {k: int(t.count) for k, t in terms.items()} == task.counts(piece)
            sum(task.weights[k] * t.sum / task.counts(batch)[k] for k, t in terms.items()).backward()
            start += size
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for other in gradients[1:]:
        for name, value in gradients[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_weights_are_the_published_ones():
    assert SegmentTask(build()).weights == pytest.approx(
        {"focal": 2.0, "dice": 0.5, "auxiliary_focal": 0.8, "auxiliary_dice": 0.2}
    )
    assert set(SegmentTask(build(auxiliary=0)).weights) == {"focal", "dice"}


def test_the_lesion_counts_half_in_the_loss_as_one_of_two_classes():
    """As published: the Dice losses of the classes without the background, over the number of classes with it.

    Two of four lesion pixels found, one besides: (1 - (2 * 2 + 1) / (3 + 4 + 1)) / 2 = 0.1875, and 0.4 of it below.
    """
    logits = torch.full((1, 1, 3, 4), -50.0)
    logits[0, 0, 0, :3] = 50.0
    mask = torch.zeros(1, 3, 4, dtype=torch.uint8)
    mask[0, 0, :2] = mask[0, 1, :2] = 1
    weights = SegmentTask(build()).weights
    assert weights["dice"] * dice_loss(logits, mask).mean().item() == pytest.approx(0.1875)
    assert weights["auxiliary_dice"] * dice_loss(logits, mask).mean().item() == pytest.approx(0.4 * 0.1875)
    empty = torch.zeros(1, 1, 3, 4)  # at odds of 1 everywhere, no lesion: (1 - 1 / (12 / 4 + 1)) / 2
    nothing = dice_loss(empty, torch.zeros(1, 3, 4, dtype=torch.uint8)).mean().item()
    assert weights["dice"] * nothing == pytest.approx((1 - 1 / 4) / 2)


# Dropout of the heads, relative positions, layer scale -----------------------------------------------------


@pytest.mark.parametrize("head", ["upernet", "dpt", "linear"])
def test_heads_drop_whole_channels_by_sample_key_in_training_only(head):
    model = build(head=head, head_dropout=0.5).train()
    keys = SegmentTask(model).sample_keys
    keys.keys_B = torch.tensor([1, 2])
    inputs = []
    for part in (model.head, model.auxiliary):
        part.classify.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    first = model(image)
    again = model(image)
    assert torch.equal(first.logits_BCHW, again.logits_BCHW)  # by key, not from a global generator
    for x_BCHW in inputs[:2]:
        off_BC = (x_BCHW == 0).all(dim=(2, 3))
        assert 0 < off_BC.sum() < off_BC.numel()
        assert not torch.equal(off_BC[0], off_BC[1])
    keys.keys_B = torch.tensor([1, 3])
    other = model(image)
    torch.testing.assert_close(other.logits_BCHW[0], first.logits_BCHW[0])
    assert not torch.allclose(other.logits_BCHW[1], first.logits_BCHW[1])
    assert torch.equal(model.eval()(image).logits_BCHW, model(image).logits_BCHW)


def test_dropped_channels_are_a_tenth_and_the_mean_stays():
    keys = noise.SampleKeys()
    keys.keys_B = torch.arange(400)
    dropout = noise.ChannelDropout(0.1, "head.dropout", keys).train()
    x_BCHW = dropout(torch.ones(400, 64, 2, 3))
    off_BC = (x_BCHW == 0).all(dim=(2, 3))
    assert off_BC.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert x_BCHW.mean().item() == pytest.approx(1.0, abs=0.01)
    assert x_BCHW[~off_BC].unique().tolist() == pytest.approx([1 / 0.9])


def test_relative_positions_add_a_bias_for_each_distance_to_the_attention():
    """Against attention written out, with a bias looked up by rows and columns between two patches."""
    plain, model = build(), build(relative_positions=True)
    model.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(image).logits_BCHW, plain(image).logits_BCHW)  # all are 0 at first
        attention = model.encoder.blocks[1].attn
        table = attention.rel_pos.relative_position_bias_table
        assert table.shape == (7 * 11 + 3, 3)  # 4 x 6 patches: -3 to 3 rows, -5 to 5 columns, and the class token's
        table.normal_(generator=torch.Generator().manual_seed(1))
        bias_HLL = torch.empty(3, 25, 25)
        for i, j in itertools.product(range(25), range(25)):
            rows, columns = (i - 1) // 6 - (j - 1) // 6, (i - 1) % 6 - (j - 1) % 6
            place = (rows + 3) * 11 + columns + 5
            place = 79 if i == j == 0 else 77 if i == 0 else 78 if j == 0 else place
            bias_HLL[:, i, j] = table[place]
        x = torch.randn(2, 25, 48, generator=torch.Generator().manual_seed(2))
        q, k, v = attention.qkv(x).view(2, 25, 3, 3, 16).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2)) / 4 + bias_HLL).softmax(-1) @ v
        expected = attention.proj(mixed.transpose(1, 2).reshape(2, 25, 48))
        torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_relative_positions_and_layer_scale_start_from_a_plain_encoder_and_learn(tmp_path):
    changes = {"relative_positions": True, "layer_scale": 1.0}
    folder = model_folder.save(tmp_path / "plain", Classifier(replace(ENCODER, encoder_options=OPTIONS)))
    model = build(**changes)
    report = model_folder.start_from(model, folder)
    assert [n for n in report.missing if n.startswith("encoder.") and not n.endswith(("bias_table", "gamma"))] == []
    assert torch.equal(
        model.encoder.blocks[2].attn.qkv.weight, model_folder.load(folder).encoder.blocks[2].attn.qkv.weight
    )
    assert all((block.ls1.gamma == 1).all() for block in model.encoder.blocks)
    task = SegmentTask(model.train())
    batch = random_batch()
    sum(term.mean() for term in task(batch).values()).backward()
    for block in model.encoder.blocks:
        assert block.attn.rel_pos.relative_position_bias_table.grad.abs().max() > 0
        assert block.ls2.gamma.grad.abs().max() > 0
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5))
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    tables = [groups[id(b.attn.rel_pos.relative_position_bias_table)] for b in model.encoder.blocks]
    assert {g["weight_decay"] for g in tables} == {0.0}  # biases
    assert [g["lr_scale"] for g in tables] == [0.0625, 0.125, 0.25, 0.5]
    again = model_folder.load(model_folder.save(tmp_path / "again", model.eval()))
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(again(image).logits_BCHW, model(image).logits_BCHW)


def test_weights_that_lack_more_than_the_added_ones_are_still_refused(tmp_path):
    plain = Classifier(replace(ENCODER, encoder_options={**OPTIONS, "depth": 3}))
    folder = model_folder.save(tmp_path / "shallow", plain)
    with pytest.raises(CheckpointError, match="another encoder"):
        model_folder.start_from(build(relative_positions=True), folder)


def test_relative_positions_need_a_plain_encoder():
    with pytest.raises(SegmenterError, match="plain attention and at most a class token"):
        build(encoder="vit_small_patch14_reg4_dinov2", image_size=(56, 56), relative_positions=True)
    with pytest.raises(SegmenterError, match="plain attention"):
        build(encoder_options={**OPTIONS, "qk_norm": True}, relative_positions=True)


# Inference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slide", [False, True])
@pytest.mark.parametrize("shape", [(200, 150), (50, 300), (64, 96), (31, 17)])
def test_predictions_have_the_image_size(slide, shape):
    model = build(classes=("a", "b"))
    found = probabilities(model, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), slide)
    assert found.shape == (2, *shape)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("slide", [False, True])
@pytest.mark.parametrize("shape", [(120, 100), (90, 300), (300, 90)])
def test_what_the_model_sees_comes_back_where_it_was(slide, shape, monkeypatch):
    """A model that calls bright pixels lesions must give the image back, whole or in windows."""
    model = build()
    image = np.zeros(shape, np.uint8)
    image[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 255
    monkeypatch.setattr(Segmenter, "forward", lambda self, x: type("O", (), {"logits_BCHW": 9 * x[:, :1]}))
    found = probabilities(model, image, slide)[0] > 0.5
    assert 2 * (found & (image > 0)).sum() / (found.sum() + (image > 0).sum()) > 0.95


def test_windows_cover_everything_and_overlap():
    assert window_starts(96, 96, 0.5) == [0]
    starts = window_starts(200, 96, 0.5)
    assert starts[0] == 0
    assert starts[-1] == 200 - 96
    assert all(0 < b - a <= 48 for a, b in itertools.pairwise(starts))


def test_one_window_is_the_whole_image():
    model = build()
    image = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
    np.testing.assert_allclose(probabilities(model, image), probabilities(model, image, slide=True), atol=1e-6)
