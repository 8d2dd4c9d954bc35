"""What the report decoder sees of an image: its mean as published, a gain of it, and patches that words attend to."""

from dataclasses import replace

import pytest
import torch

import mrm
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM, scale_gradient
from mrm.models.report_decoder import LookAtPatches, rows_of
from tests.support.configs import SMALL


def small_model(**changes):
    with noise.seeded(0):
        return MRM(replace(SMALL, **changes)).eval()


def report(seed=0):
    """Tokens (3, 20) of which 15 are held and five of these masked, their attention, and the masked positions."""
    ids = torch.randint(4, 50, (3, 20), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, 15:], ids[:, 3:8] = 2, 0, 3
    return ids, (ids != 0).long(), (ids == 3).flatten().nonzero().squeeze(1)


def features(seed=1):
    """Class token and four patches of three images."""
    return torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(seed))


def test_the_published_decoder_has_no_weights_for_what_is_off():
    names = set(small_model().state_dict())
    more = set(small_model(report_sees="patches", context_gain=1.0).state_dict())
    assert names < more
    assert all("look" in n or "patches_from_image" in n or "context_gain" in n for n in more - names)


def test_words_attend_to_patches_as_multi_head_attention_does():
    """Against PyTorch's own layer with the same weights, one image at a time."""
    torch.manual_seed(0)
    look, other = LookAtPatches(48, 3), torch.nn.MultiheadAttention(48, 3, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([look.query.weight, look.key_value.weight]))
        other.in_proj_bias.copy_(torch.cat([look.query.bias, look.key_value.bias]))
        other.out_proj.weight.copy_(look.out.weight)
        other.out_proj.bias.copy_(look.out.bias)
    x_NR, patches_BKR = torch.randn(9, 48), torch.randn(2, 4, 48)
    rows_N = torch.tensor([0, 1, 2, 6, 7, 8, 9, 10, 11])  # three of six words of the first report, all of the second
    seen_NR = look(x_NR, rows_N, patches_BKR, 6)
    for image, rows in ((0, slice(0, 3)), (1, slice(3, 9))):
        expected, _ = other(x_NR[None, rows], patches_BKR[[image]], patches_BKR[[image]])
        torch.testing.assert_close(seen_NR[rows], expected[0])


def test_words_see_each_patch_but_not_their_order():
    """The mean is the same when patches are swapped or trade what they show; attention tells the second."""
    tokens, attention, words = report()
    for sees, told in (("mean", False), ("patches", True)):
        model, seen = small_model(report_sees=sees), features()
        with torch.no_grad():
            before = model.name_words(model.context(seen), tokens, attention, words)
            swapped = model.name_words(model.context(seen[:, [0, 4, 2, 3, 1]]), tokens, attention, words)
            other = seen.clone()
            other[:, 1] += 1.0
            other[:, 2] -= 1.0
            traded = model.name_words(model.context(other), tokens, attention, words)
        torch.testing.assert_close(swapped, before)
        assert ((traded - before).abs().max() > 1e-3) == told


def test_padding_need_not_be_computed_where_words_see_patches():
    model = small_model(report_sees="patches", report_dropout=0.3)
    tokens, attention, words = report()
    keys, held = torch.tensor([5, 6, 7]), attention.flatten().nonzero().squeeze(1)
    context = model.context(features()).detach()
    some, every = (model.name_words(context, tokens, attention, words, keys, rows) for rows in (held, None))
    torch.testing.assert_close(some, every)


def test_gradients_are_the_same_to_the_bit_in_several_threads():
    """Positions, the context of an image and words that stand for padding are rows that are taken many times."""
    rng = torch.Generator().manual_seed(0)
    table_NX = torch.randn(64, 96, generator=rng, requires_grad=True)
    places_M = torch.randint(64, (4096,), generator=rng)
    weight_MX = torch.randn(4096, 96, generator=rng)
    before, gradients = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        for _ in range(8):
            (gradient,) = torch.autograd.grad((rows_of(table_NX, places_M) * weight_MX).sum(), table_NX)
            gradients.append(gradient)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    right_NX = torch.zeros(64, 96).index_add(0, places_M, weight_MX)
    torch.testing.assert_close(gradients[0], right_NX, rtol=1e-4, atol=1e-4)


def test_a_gain_sets_how_loud_the_image_is_whatever_its_scale():
    for gain in (0.5, 2.0):
        model = small_model(context_gain=gain)
        for scale in (0.1, 10.0):
            context = model.context(features() * scale)
            assert context.shape == (3, 1, 48)
            for loudness in context.square().mean(dim=2).sqrt().flatten().tolist():  # of each image by itself
                assert loudness == pytest.approx(gain, rel=1e-3)
    model.context(features()).square().mean().backward()
    assert model.report_decoder.context_gain.grad.item() == pytest.approx(2 * 2.0, rel=1e-3)  # of the gain, squared


def test_the_words_teach_the_encoder_as_much_as_they_are_told():
    """Of the gradient of the words alone, the encoder gets the share; the report decoder gets all of it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 3, 64, 64, generator=generator)
    kept = torch.arange(4).expand(3, 4)
    tokens, attention, words = report()
    gradients = {}
    for share in (1.0, 0.25, 0.0):
        model = small_model()
        output = model(image, kept, kept + 4, tokens, attention, words, report_to_encoder=share)
        output.logits_WV.square().sum().backward()
        encoder = model.encoder.blocks[0].attn.qkv.weight.grad
        gradients[share] = encoder, model.report_decoder.from_image.weight.grad
    whole = gradients[1.0]
    for share in (0.25, 0.0):
        torch.testing.assert_close(gradients[share][0], share * whole[0])
        torch.testing.assert_close(gradients[share][1], whole[1])
    for factor in (0.5, 1.0, 2.0):
        x = torch.ones(2, requires_grad=True)
        scale_gradient(x, factor).sum().backward()
        assert x.grad.tolist() == [factor, factor]


def test_a_model_whose_words_see_patches_is_exported_whole_and_comes_back(tmp_path):
    model = small_model(report_sees="patches", context_gain=0.7)
    for back in (
        mrm.load(model_folder.export_published(model, tmp_path / "MRM.pth")),
        mrm.load(model_folder.save(tmp_path / "folder", model)),
    ):
        assert back.config == model.config
        for name, value in model.state_dict().items():
            assert torch.equal(back.state_dict()[name], value), name
