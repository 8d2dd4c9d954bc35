"""The model against the published implementation (golden values), and its own contracts."""

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mrm
from mrm import recipes, runs
from mrm.data.records import Records
from mrm.data.reports import NO_WORD
from mrm.inference import reconstruction
from mrm.models import model_folder, noise
from mrm.models import mrm as network
from mrm.models import published_layout as published_layout
from mrm.models.config import ModelConfig
from mrm.models.mrm import MRM, complement, normalise, patchify, take, unpatchify
from mrm.models.start import sine_cosine
from mrm.system.errors import ConfigError
from mrm.training.config import TrainConfig
from mrm.training.tasks import PretrainTask
from tests.support.configs import SMALL
from tests.support.paths import SHARED


@pytest.fixture(scope="module")
def golden():
    """`inputs.py` beside the golden values: weights and inputs rebuilt from names and seeds."""
    path = SHARED / "golden" / "inputs.py"
    if not path.is_file():
        pytest.skip(f"no golden values at {path.parent}")
    spec = importlib.util.spec_from_file_location("golden_inputs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """The reference's weights as a published `MRM.pth`, and our model loaded from it."""
    path = tmp_path_factory.mktemp("published") / "MRM.pth"
    weights = {k: torch.from_numpy(v) for k, v in golden.reference_state_dict().items()}
    shallow = MRM(replace(ModelConfig(), encoder_options={"depth": 1}, decoder_depth=1, report_depth=1))
    computed = {"pos_embed": shallow.encoder.pos_embed.detach()}  # computed from the size, not learnt
    torch.save({"model": {**weights, **computed}, "epoch": 199}, path)
    return path, mrm.load(path)


def golden_losses(golden, model, report_loss, norm_pix):
    batch = {k: torch.from_numpy(np.asarray(v)) for k, v in golden.batch().items()}
    kept = batch["noise"].argsort(dim=1)[:, :49]
    return mrm.pretrain_losses(
        model,
        batch["image"],
        batch["masked_ids"],
        batch["ids"],
        batch["attention_mask"],
        kept,
        report_loss,
        norm_pix,
    )


@pytest.mark.parametrize(("report_loss", "norm_pix"), [("all", True), ("masked", False)])
def test_losses_equal_the_published_implementation(golden, published, report_loss, norm_pix):
    expected = golden.expected()
    report_key = {"all": "report_loss_all_tokens", "masked": "report_loss_masked_tokens_only"}[report_loss]
    with torch.no_grad():
        losses = golden_losses(golden, published[1], report_loss, norm_pix)
    assert losses["image"].item() == pytest.approx(expected[f"image_loss_norm_pix_{norm_pix}"], rel=1e-4)
    assert losses["report"].item() == pytest.approx(expected[report_key], rel=1e-4)


def test_gradient_norms_equal_the_published_implementation(golden, published):
    """The reference's embedding gradient leaves the output layer out, so its words are compared untied.

    What contrast and features add to a model changes neither the losses nor their gradients.
    """
    tied = published[1]
    untied = MRM(ModelConfig(tied_words=False, contrast_width=128, feature_blocks=6))
    weights = {**tied.state_dict(), "report_decoder.word_output": tied.report_decoder.words.weight}
    missing = untied.load_state_dict(weights, strict=False).missing_keys
    assert {name.rsplit(".", 2)[0] for name in missing} == {"contrast", "image_decoder"}
    losses = golden_losses(golden, untied.eval(), "all", norm_pix=False)
    assert losses["image"].item() == pytest.approx(golden.expected()["image_loss_norm_pix_False"], rel=1e-4)
    assert losses["report"].item() == pytest.approx(golden.expected()["report_loss_all_tokens"], rel=1e-4)
    (losses["image"] + losses["report"]).backward()
    theirs = {
        published_layout.their_name(n): p.grad
        for n, p in untied.named_parameters()
        if ".qkv." not in n or "report" not in n
    }
    for name, expected in golden.expected()["grad_norms_norm_pix_False"].items():
        assert theirs[name].norm().item() == pytest.approx(expected, rel=1e-3), name


def test_intermediate_values_equal_the_published_implementation(golden, published):
    expected, model = golden.expected(), published[1]
    batch = golden.batch()
    kept = torch.from_numpy(batch["noise"]).argsort(dim=1)[:, :49]
    with torch.no_grad():
        small = model.shrink(torch.from_numpy(batch["image"]))
        features = model.encode(small, kept)
        hidden = complement(kept, 196)
        pixels = model.restore(features, kept, hidden)
    assert small[0, 0, 0, :8].tolist() == pytest.approx(expected["resized_224_0_0_0_first8"], rel=1e-4)
    assert features.abs().mean().item() == pytest.approx(expected["latent_mean_abs"], rel=1e-4)
    assert features[0, 0, :8].tolist() == pytest.approx(expected["latent_0_0_first8"], rel=1e-3)
    assert pixels[0, 0, :8].tolist() == pytest.approx(expected["pred_0_masked_first8"], rel=1e-3)
    assert torch.where(torch.tensor(expected["mask_row0"]) == 1)[0].tolist() == hidden[0].tolist()


def test_classifier_logits_equal_the_published_implementation(golden, published):
    path, model = published
    encoder = mrm.load_encoder(path, num_classes=14, drop_path_rate=0.1)
    extra = {k: torch.from_numpy(v) for k, v in golden.classifier_extra().items()}
    assert not encoder.load_state_dict(extra, strict=False).unexpected_keys
    with torch.no_grad():
        logits = encoder.eval()(model.shrink(torch.from_numpy(golden.batch()["image"])))
    assert logits[0].tolist() == pytest.approx(golden.expected()["classifier_logits_row0"], rel=1e-4, abs=1e-5)


def test_exported_weights_have_the_published_names_and_shapes(golden, published, tmp_path):
    exported = model_folder.export_published(published[1], tmp_path / "again.pth")
    weights = torch.load(exported, weights_only=True)["model"]
    assert {k: list(v.shape) for k, v in weights.items()} == golden.expected()["state_dict_shapes"]


def small_batch(batch=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 3, 128, 128, generator=g)
    kept = torch.stack([torch.randperm(16, generator=g)[:4].sort().values for _ in range(batch)])
    ids = torch.randint(4, 50, (batch, 20), generator=g)
    ids[:, 0], ids[:, 15:] = 2, 0
    masked = ids.clone()
    masked[:, 3:8] = 3
    return image, masked, ids, (ids != 0).long(), kept


def small_model(**changes):
    with noise.seeded(0):
        return MRM(replace(SMALL, **changes)).eval()


def test_padding_can_be_trimmed_without_changing_the_masked_loss():
    model = small_model()
    image, masked, ids, attention, kept = small_batch()
    full = mrm.pretrain_losses(model, image, masked, ids, attention, kept)
    trimmed = mrm.pretrain_losses(model, image, masked[:, :15], ids[:, :15], attention[:, :15], kept)
    assert full["report"].item() == pytest.approx(trimmed["report"].item(), rel=1e-6)


@pytest.mark.parametrize(("start", "variance"), [("normal", 48 * 0.02**2), ("xavier", 48 * 2 / (48 + 50))])
def test_a_fresh_model_knows_nothing(start, variance):
    """Losses of an untrained model: ln(V) for words, and half the variance of logits that say nothing; near 1 for patches.

    A logit is a sum over 48 values of variance 1, times output weights of variance 0.02^2, or Xavier's 2 / (48 + 50).
    """
    losses = mrm.pretrain_losses(small_model(start=start), *small_batch())
    assert losses["report"].item() == pytest.approx(math.log(50) + variance / 2, rel=0.1)
    assert 0.9 < losses["image"].item() < 2.5


def test_losses_are_the_papers_unless_others_are_asked_for():
    """The mean over masked words, and over patches each less its mean and over its deviation."""
    model, (image, *rest) = small_model(), small_batch()
    losses = mrm.pretrain_losses(model, image, *rest)
    hidden = complement(rest[-1], 16)
    with torch.no_grad():
        output = model(
            model.shrink(image), rest[-1], hidden, rest[0], rest[2], (rest[0] != rest[1]).flatten().nonzero()[:, 0]
        )
        target = take(patchify(image, 32), hidden)
    deviation, mean = torch.std_mean(target, dim=-1, keepdim=True)
    expected = (output.pixels_BMP - (target - mean) / deviation).square().mean()
    assert losses["image"].item() == pytest.approx(expected.item(), rel=1e-4)
    words = rest[1][rest[0] != rest[1]]
    assert losses["report"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(output.logits_WV, words).item(), rel=1e-5
    )


def test_checkpointing_changes_memory_not_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = small_model()
        model.checkpointing = checkpointing
        losses = mrm.pretrain_losses(model, *small_batch())
        (losses["image"] + losses["report"]).backward()
        gradients.append(model.encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("asked", "gradients", "blocks"), [(False, True, 0), (True, True, 5), (True, False, 0)])
def test_only_where_it_is_asked_for_and_gradients_follow_a_block_is_computed_again(
    monkeypatch, asked, gradients, blocks
):
    """Two blocks of the encoder, one of the image decoder and two of the report decoder."""
    again = []
    monkeypatch.setattr(network, "checkpoint", lambda block, *inputs, **_: again.append(block) or block(*inputs))
    model = small_model()
    model.checkpointing = asked
    with torch.set_grad_enabled(gradients):
        mrm.pretrain_losses(model, *small_batch())
    assert len(again) == blocks


@pytest.mark.parametrize(
    "encoder", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2"]
)
def test_any_timm_vit_can_be_the_encoder(encoder):
    patch = 14 if "patch14" in encoder else 16
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    model = small_model(
        encoder=encoder,
        encoder_options=options,
        image_size=4 * patch,
        fixed_positions="siglip" not in encoder,
    )
    image, masked, ids, attention, kept = small_batch()
    crop = torch.nn.functional.interpolate(image, size=(8 * patch, 8 * patch))
    losses = mrm.pretrain_losses(model, crop, masked, ids, attention, kept)
    (losses["image"] + losses["report"]).backward()
    assert losses["report"].item() == pytest.approx(
        math.log(model.report_decoder.words.num_embeddings), rel=0.2
    )  # no word is likelier yet
    assert 0.8 < losses["image"].item() < 2.5  # targets have variance 1, and an untrained restoration adds its own
    for block in model.encoder.blocks:
        assert 0 < block.attn.qkv.weight.grad.norm().item() < math.inf
    small = model.shrink(crop)
    with torch.no_grad():
        expected = model.encoder.forward_features(small)
        torch.testing.assert_close(model.encode(small), expected)
        every = torch.arange(16).expand(3, 16)
        torch.testing.assert_close(model.encode(small, every), expected)


def test_patches_go_back_where_they_came_from():
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(unpatchify(patchify(image, 16), 16), image)


def test_positions_tell_columns_from_rows():
    table = sine_cosine(48, 4).view(4, 4, 48)
    assert torch.equal(table[0, 2, :24], table[3, 2, :24])  # the first half is the column's
    assert torch.equal(table[1, 0, 24:], table[1, 3, 24:])  # the second the row's
    assert len(table.view(16, 48).unique(dim=0)) == 16


def test_keep_must_leave_something_to_restore():
    with pytest.raises(ValueError, match="keep must be from 1 to 15 of 16 patches, not 16"):
        small_model(keep=16)


# What is computed only where it is needed -------------------------------------------------------------


def test_the_decoder_restores_what_its_blocks_would_one_by_one():
    """Rows computed once and rows left out change nothing: timm's own blocks over all patches give the same pixels."""
    model = small_model(decoder_depth=2)
    decoder = model.image_decoder
    kept = small_batch()[-1]
    hidden = complement(kept, 16)
    with torch.no_grad():
        features = model.encode(torch.randn(3, 3, 64, 64), kept)
        embedded = decoder.embed(features)
        x = decoder.mask_token.expand(3, 16, -1).clone()
        x[torch.arange(3)[:, None], kept] = embedded[:, 1:]
        x = torch.cat([embedded[:, :1], x + decoder.positions_LE], dim=1)
        for block in decoder.blocks:
            x = super(type(block), block).forward(x)
        expected = decoder.pixels(decoder.norm(take(x[:, 1:], hidden)))
        torch.testing.assert_close(model.restore(features, kept, hidden), expected)


def test_hidden_patches_are_projected_once_for_all_images_and_no_row_twice():
    model, kept = small_model(decoder_depth=2), small_batch()[-1]
    rows = []
    for block in model.image_decoder.blocks:
        block.attn.qkv.register_forward_hook(lambda layer, inputs, output: rows.append(output.shape[:-1].numel()))
    with torch.no_grad():
        model.restore(model.encode(torch.randn(3, 3, 64, 64), kept), kept, complement(kept, 16))
    assert rows == [3 * (1 + 4), 16, 3 * (1 + 16)]  # what three images show, blank patches; the second block's rows


def test_padding_need_not_be_computed():
    """Words named from the rows that hold tokens equal those from all rows, with dropout too, and so do gradients."""
    model = small_model(report_dropout=0.3)
    _, masked, ids, attention, _ = small_batch()
    words, keys = (masked != ids).flatten().nonzero().squeeze(1), torch.tensor([5, 6, 7])
    held = attention.flatten().nonzero().squeeze(1)
    some = torch.cat([held, torch.tensor([19])]).sort().values  # and a padding position, to fill up
    found = []
    for rows in (None, some):
        model.zero_grad()
        context = torch.randn(3, 1, 48, generator=torch.Generator().manual_seed(0))
        logits = model.name_words(context, masked, attention, words, keys, rows)
        logits.square().sum().backward()
        found.append((logits.detach(), model.report_decoder.blocks[0].qkv.weight.grad.clone()))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


# The cross decoder ------------------------------------------------------------------------------------


def test_a_hidden_patch_is_restored_alike_whichever_others_are_asked_for():
    kept = small_batch()[-1]
    hidden = complement(kept, 16)
    for decoder in ("cross", "full"):
        model = small_model(image_decoder=decoder)
        with torch.no_grad():
            features = model.encode(torch.randn(3, 3, 64, 64), kept)
            every, some = model.restore(features, kept, hidden), model.restore(features, kept, hidden[:, [2, 5]])
        torch.testing.assert_close(some, every[:, [2, 5]])


def test_the_cross_decoder_sees_visible_patches_and_knows_where_they_are():
    model = small_model(image_decoder="cross")
    kept = small_batch()[-1]
    hidden = complement(kept, 16)
    with torch.no_grad():
        features = model.encode(torch.randn(3, 3, 64, 64), kept)
        before = model.restore(features, kept, hidden)
        swapped = features.clone()
        swapped[:, 1], swapped[:, 2] = features[:, 2], features[:, 1]  # the same features at each other's places
        after = model.restore(swapped, kept, hidden)
        blind = model.restore(torch.zeros_like(features), kept, hidden)
    assert not torch.allclose(before, after)
    assert not torch.allclose(before, blind)
    assert not torch.allclose(before[:, 0], before[:, 1])  # and which patch is asked for


def test_blocks_of_the_decoder_mix_the_blocks_of_the_encoder():
    """At the start the mix is the last block, so the losses are those of `cross`; another mix is what the formula says."""
    image, kept = torch.randn(3, 3, 64, 64), small_batch()[-1]
    hidden = complement(kept, 16)
    mixing, plain = small_model(image_decoder="cross-blocks"), small_model(image_decoder="cross")
    plain.load_state_dict({k: v for k, v in mixing.state_dict().items() if k != "image_decoder.mix"})
    passed = []
    with torch.no_grad():
        features = mixing.encode(image, kept, passed)
        torch.testing.assert_close(
            mixing.restore(features, kept, hidden, passed), plain.restore(features, kept, hidden)
        )
        assert torch.equal(mixing.encoder.norm(passed[-1]), features)
        mixing.image_decoder.mix.zero_()[:, 0] = 2.0  # twice the first block's features, for all blocks of the decoder
        expected = plain.restore(2 * torch.nn.functional.layer_norm(passed[0], (48,), eps=1e-6), kept, hidden)
        torch.testing.assert_close(mixing.restore(features, kept, hidden, passed), expected)
    deep = {"encoder_options": {"depth": 3, "embed_dim": 48, "num_heads": 3}}
    three, plain = small_model(image_decoder="cross-blocks", **deep), small_model(image_decoder="cross", **deep)
    plain.load_state_dict({k: v for k, v in three.state_dict().items() if k != "image_decoder.mix"})
    with torch.no_grad():
        features = three.encode(image, kept, passed := [])
        three.image_decoder.mix.copy_(torch.tensor([[0.5, 2.0, -1.0]]))
        first, second = (torch.nn.functional.layer_norm(x, (48,), eps=1e-6) for x in passed[:2])
        expected = plain.restore(0.5 * first + 2 * second - features, kept, hidden)
        torch.testing.assert_close(three.restore(features, kept, hidden, passed), expected)
    mixing.train()
    mixing.restore(mixing.encode(image, kept, fresh := []), kept, hidden, fresh).square().sum().backward()
    assert mixing.image_decoder.mix.grad.abs().min() > 0  # every block may be drawn upon


def pretrain_config(phantoms, out, **model):
    training = TrainConfig(
        epochs=None, steps=80, warmup_steps=3, global_batch=8, lr=3e-3, lr_batch=None, precision="fp32",
        log_every=1, validate_every=40, save_every=80, workers=0,
    )  # fmt: skip
    return recipes.PretrainConfig(
        phantoms / "records.csv", out, val=phantoms / "records.csv", model=replace(SMALL, **model), training=training
    )


def test_a_cross_run_asks_for_a_part_of_the_patches_and_learns(phantoms, tmp_path):
    import csv

    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run", image_decoder="cross", predicted=5))
    rows = list(csv.DictReader((run / "log.csv").open()))
    assert np.mean([float(r["image"]) for r in rows[-5:]]) < 0.97 * np.mean([float(r["image"]) for r in rows[:5]])
    model = mrm.load(run)
    assert (model.config.image_decoder, model.predicted) == ("cross", 5)
    image = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    shown = reconstruction.reconstruct(model, image)
    same = (shown.restored == shown.original).reshape(4, 32, 4, 32).all(axis=(1, 3))
    assert same.sum() == 4  # the visible patches; all twelve others are restored, asked for in training or not


@pytest.mark.parametrize(
    ("decoder", "predicted", "count"), [("full", None, 12), ("cross", None, 4), ("cross-blocks", 7, 7)]
)
def test_the_image_loss_counts_the_patches_asked_for(phantoms, decoder, predicted, count):
    from mrm.runs.doctor import with_tokenizer
    from mrm.runs.pretraining import pretrain_data
    from mrm.runs.stage_times import StepBench

    config = pretrain_config(phantoms, phantoms, image_decoder=decoder, predicted=predicted)
    records = Records.load(config.records)
    tokenizer, config = with_tokenizer(config, records)
    with noise.seeded(0):
        model = MRM(config.model)
    data = pretrain_data(config, records, model, tokenizer)
    batch = StepBench(PretrainTask(model), config.training, data).batch(3)
    task = PretrainTask(model).eval()
    terms = task(batch)
    assert batch.hidden_BM.shape == (3, count)
    assert terms["image"].count == task.counts(batch)["image"] == 3 * count
    assert terms["report"].count == (batch.targets_W != NO_WORD).sum() > 0
    asked = {tuple(data.sample(e, 0)["hidden"]) for e in range(4)}
    assert len(asked) == 4  # another part every epoch


def test_a_grey_channel_seen_three_times_is_shrunk_as_three():
    model = small_model()
    grey = np.random.default_rng(0).integers(0, 256, (2, 128, 128), dtype=np.uint8)
    crop = normalise(torch.from_numpy(grey), 0.5, 0.25)
    assert crop.stride(1) == 0
    torch.testing.assert_close(model.shrink(crop), model.shrink(crop.contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize(
    "variant", [{"image_decoder": "cross"}, {"image_decoder": "cross-blocks", "feature_blocks": 2, "contrast_width": 8}]
)
def test_a_model_with_variants_is_exported_whole_and_comes_back(tmp_path, variant):
    model = small_model(**variant)
    back = mrm.load(model_folder.export_published(model, tmp_path / "MRM.pth"))
    assert back.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    weights = torch.load(tmp_path / "MRM.pth", weights_only=True)["model"]
    report = small_model().encoder.load_state_dict(weights, strict=False)
    assert not report.missing_keys
    other = small_model()  # the full decoder starts from what both have in common, and says what it lacks
    assert "image_decoder.blocks.0.attn.qkv.weight" in model_folder.start_from(other, tmp_path / "MRM.pth").missing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_decoder": "crossed"}, "image_decoder must be one of full, cross, cross-blocks, not 'crossed'"),
        ({"predicted": 13}, "predicted must be between 1 and the 12 hidden patches, not 13"),
        ({"image_decoder": "cross", "predicted": 0}, "predicted must be a whole number from 1 to .*, not 0"),
        ({"feature_blocks": 3}, "feature_blocks must be at most the encoder's 2, not 3"),
        ({"decoder_depth": 0}, "decoder_depth must be a whole number from 1 to 128, not 0"),
    ],
)
def test_decoders_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_model(**changes)
