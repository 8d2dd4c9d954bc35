"""Noise that belongs to the sample: the same in any batch, and uniform."""

import pytest
import torch

from mrm.models import noise

KEYS = torch.tensor([3, 99, 2**31 - 1, 0])


def test_a_sample_has_the_same_mask_in_any_batch():
    together = noise.keep_mask(KEYS, "site", (7, 5), 0.3)
    for i in range(len(KEYS)):
        assert torch.equal(together[i : i + 1], noise.keep_mask(KEYS[i : i + 1], "site", (7, 5), 0.3))


def test_a_longer_shape_only_appends():
    short, long = (noise.keep_mask(KEYS, "site", (n, 8), 0.5) for n in (4, 9))
    assert torch.equal(short, long[:, :4])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_kept_is_one_minus_p_for_samples_and_across_them(p):
    mask = noise.keep_mask(torch.arange(500), "site", (400,), p).float()
    assert mask.mean().item() == pytest.approx(1 - p, abs=0.003)
    assert (mask.mean(0) - (1 - p)).abs().max() < 0.12  # 500 keys: 5 deviations of a fair draw
    assert (mask.mean(1) - (1 - p)).abs().max() < 0.13


def test_sites_keys_and_neighbours_are_independent():
    a, b = (noise.keep_mask(torch.arange(300), site, (300,), 0.5).float() - 0.5 for site in ("a", "b"))
    for x, y in [(a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1])]:
        assert abs((x * y).mean().item() * 4) < 0.02


def test_dropout_keeps_the_mean_and_is_the_identity_without_keys():
    x = torch.ones(400, 300)
    dropped = noise.dropout(x, 0.1, torch.arange(400), "site")
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.005)
    assert torch.equal(noise.dropout(x, 0.1, None, "site"), x)


def test_seeded_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    with noise.seeded(1):
        torch.rand(10)
    assert torch.equal(torch.rand(1), before)


def test_timm_drop_paths_are_replaced_and_follow_the_keys():
    import timm

    encoder = timm.create_model("vit_tiny_patch16_224", depth=3, drop_path_rate=0.5, num_classes=0).train()
    keys = noise.SampleKeys()
    noise.draw_by_key(encoder, keys)
    x = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="sample keys"):
        encoder(x)
    keys.keys_B = KEYS
    whole = encoder(x)
    keys.keys_B = KEYS[2:3]
    torch.testing.assert_close(encoder(x[2:3]), whole[2:3])
    keys.keys_B = KEYS + 1
    assert not torch.allclose(encoder(x), whole)
