"""Tasks: a model joined with its losses. A batch goes in, named terms come out; the loop knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mrm.data.masks import IGNORED
from mrm.data.reports import NO_WORD
from mrm.data.samples import LabelBatch, MaskBatch, PretrainBatch
from mrm.models import noise
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM, complement, normalise, target_patches
from mrm.models.segmenter import Segmenter
from mrm.training.contrast import Pairs, contrast_loss, has_words, text_hashes, whole_reports, whole_step
from mrm.training.feature_targets import hidden_features
from mrm.training.losses import Term, dice_loss, focal_loss, label_loss, masked_patch_loss, masked_token_loss


class Task(nn.Module):
    """What the loop trains: `forward` gives named terms, `weights` scale them, `model` is what is saved."""

    model: Any
    weights: dict[str, float]

    def counts(self, batch: Any) -> dict[str, int]:
        """How many things each term sums over, known before any forward pass."""
        raise NotImplementedError

    def follow(self, average: nn.Module) -> None:
        """Take notice of the average of the weights, which the loop updates after each step."""

    def begin_step(self, micro_batches: list[Any], compute: Callable[..., Any], state: Any) -> list[Any]:
        """The micro-batches of this rank with what they need of the whole step, before any of them is computed.

        `compute` is `forward` on this rank's device and in its precision; `state` is the Accelerator.
        """
        return micro_batches

    def memory(self) -> dict[str, Tensor]:
        """What the task itself remembers, apart from its model: its buffers, on the CPU. Checkpoints keep it."""
        return {k: v.cpu() for k, v in self.named_buffers() if not k.startswith("model.")}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Take up what `memory` returned."""
        own = dict(self.named_buffers())
        for name, value in memory.items():
            own[name].copy_(value)


class PretrainTask(Task):
    """Restore masked patches at the target size and masked words; the two losses 1:1 unless weighted.

    Where neither words nor contrast count, the report decoder is not run and there is no term of reports.
    """

    word_weights_V: Tensor | None
    average: tuple[MRM] | None = None  # of the weights; in a tuple, since it is no part of what is trained

    def __init__(
        self,
        model: MRM,
        image_weight: float = 1.0,
        report_weight: float = 1.0,
        report_to_encoder: float = 1.0,
        contrast_weight: float = 0.0,
        feature_weight: float = 0.0,
        word_weights_V: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.report_to_encoder = model, report_to_encoder
        self.weights = {"image": image_weight}
        self.weights |= {"report": report_weight} if report_weight or contrast_weight else {}
        self.weights |= {"contrast": contrast_weight} if contrast_weight else {}
        self.weights |= {"features": feature_weight} if feature_weight else {}
        self.register_buffer("word_weights_V", word_weights_V, persistent=False)

    def follow(self, average: nn.Module) -> None:
        """The average of the weights is the teacher of features."""
        self.average = (average,)  # type: ignore[assignment]

    def counts(self, batch: PretrainBatch) -> dict[str, int]:
        """Masked patches, words asked for, pairs of image and report to contrast, and patches whose features are asked for."""
        patches = batch.hidden_BM.numel()
        counts = {"image": patches}
        counts |= {"report": int((batch.targets_W != NO_WORD).sum())} if "report" in self.weights else {}
        counts |= {"contrast": int(has_words(whole_reports(batch)).sum())} if "contrast" in self.weights else {}
        return counts | ({"features": patches} if "features" in self.weights else {})

    def begin_step(self, micro_batches: list[PretrainBatch], compute: Callable[..., Any], state: Any) -> list[Any]:
        """With contrast, the micro-batches of a divided step get the pairs of all of it."""
        if "contrast" not in self.weights or len(micro_batches) * state.num_processes == 1:
            return micro_batches
        with torch.no_grad():
            steps = whole_step([compute(batch, pairs_alone=True) for batch in micro_batches], state)
        return [replace(batch, step_pairs=step) for batch, step in zip(micro_batches, steps, strict=True)]

    def forward(self, batch: PretrainBatch, pairs_alone: bool = False) -> dict[str, Term] | Pairs:
        """The terms of the image, of the report, of contrast and of features, those that are on.

        With `pairs_alone`, only the vectors that contrast compares.
        """
        model = self.model
        crop_BCHW = normalise(batch.image_BHW, model.config.mean, model.config.std)
        image_BCHW = model.shrink(crop_BCHW)
        if pairs_alone:
            return self._pairs(batch, model.encode(image_BCHW, batch.kept_BK))
        output = model(
            image_BCHW,
            batch.kept_BK,
            batch.hidden_BM,
            batch.tokens_BT,
            batch.attention_BT,
            batch.words_W,
            batch.keys_B if self.training else None,
            batch.rows_N,
            self.report_to_encoder,
            words="report" in self.weights,
        )
        side = model.patch_size * model.config.target_scale
        target_BMQ = target_patches(crop_BCHW[:, :1], side, batch.hidden_BM)  # grey
        terms = {"image": masked_patch_loss(output.pixels_BMP, target_BMQ, model.config.norm_pix)}
        if output.logits_WV is not None:
            terms["report"] = masked_token_loss(output.logits_WV, batch.targets_W, self.word_weights_V)
        if "contrast" in self.weights:
            terms["contrast"] = contrast_loss(self._pairs(batch, output.encoded_BSD), batch.step_pairs)
        if "features" in self.weights:
            assert self.average is not None and output.features_BMD is not None
            target_BMD = hidden_features(self.average[0], image_BCHW, batch.hidden_BM)
            terms["features"] = masked_patch_loss(output.features_BMD, target_BMD, normalise=False)
        return terms

    def _pairs(self, batch: PretrainBatch, encoded_BSD: Tensor) -> Pairs:
        """Images and reports as vectors, from the features of the visible patches and the words without masks."""
        whole_BT = whole_reports(batch)
        image_BE, report_BE = (
            self.model.image_vector(encoded_BSD),
            self.model.report_vector(whole_BT, batch.attention_BT),
        )
        return Pairs(image_BE, report_BE, text_hashes(whole_BT), has_words(whole_BT))


class ClassifyTask(Task):
    """A loss of each class over the labels that are stated; binary cross-entropy unless another one is given."""

    def __init__(self, model: Classifier, loss: Callable[[Tensor, Tensor], Term] = label_loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.weights = {"labels": 1.0}
        self.sample_keys = noise.SampleKeys()
        noise.draw_by_key(model.encoder, self.sample_keys)

    def counts(self, batch: LabelBatch) -> dict[str, int]:
        """Stated labels."""
        return {"labels": int((~batch.labels_BC.isnan()).sum())}

    def forward(self, batch: LabelBatch) -> dict[str, Term]:
        """The label term."""
        self.sample_keys.keys_B = batch.keys_B
        return {"labels": self.loss(self.logits(batch.image_BHW), batch.labels_BC)}

    def logits(self, image_BHW: Tensor) -> Tensor:
        """Logits (B, C) of uint8 images."""
        return self.model(normalise(image_BHW, self.model.config.mean, self.model.config.std))


class SegmentTask(Task):
    """Focal loss and Dice of every class, and a share of both for the auxiliary head.

    The default weights are the published ones for one class. There the Dice loss is summed over the classes, without the
    background, and divided by their number, with it: that of the lesion counts half.
    """

    def __init__(self, model: Segmenter, focal: float = 2.0, dice: float = 0.5, auxiliary: float = 0.4) -> None:
        super().__init__()
        self.model = model
        self.weights = {"focal": focal, "dice": dice}
        if model.auxiliary is not None:
            self.weights |= {"auxiliary_focal": auxiliary * focal, "auxiliary_dice": auxiliary * dice}
        self.sample_keys = noise.SampleKeys()
        noise.draw_by_key(model.encoder, self.sample_keys)
        noise.draw_by_key(model, self.sample_keys)

    def counts(self, batch: MaskBatch) -> dict[str, int]:
        """Labelled pixels and images with any, times classes."""
        labelled_BHW, classes = batch.mask_BHW != IGNORED, len(self.model.config.classes)
        pixels, images = int(labelled_BHW.sum()), int(labelled_BHW.flatten(1).any(dim=1).sum())
        return {name: classes * (pixels if name.endswith("focal") else images) for name in self.weights}

    def forward(self, batch: MaskBatch) -> dict[str, Term]:
        """The focal and the Dice term, and those of the auxiliary head where there is one."""
        self.sample_keys.keys_B = batch.keys_B
        config = self.model.config
        output = self.model(normalise(batch.image_BHW, config.mean, config.std))
        terms = {
            "focal": focal_loss(output.logits_BCHW, batch.mask_BHW),
            "dice": dice_loss(output.logits_BCHW, batch.mask_BHW),
        }
        if output.auxiliary_BCHW is not None:
            terms["auxiliary_focal"] = focal_loss(output.auxiliary_BCHW, batch.mask_BHW)
            terms["auxiliary_dice"] = dice_loss(output.auxiliary_BCHW, batch.mask_BHW)
        return terms


def pretrain_losses(
    model: MRM,
    image: Tensor,
    token_ids: Tensor,
    target_ids: Tensor,
    attention: Tensor,
    kept: Tensor,
    report_loss: Literal["masked", "all"] = "masked",
    norm_pix: bool = True,
) -> dict[str, Tensor]:
    """The two mean losses, `{"image": ..., "report": ...}`, for given inputs.

    `image` (B, 3, 448, 448) normalised; `token_ids` (B, T) with words masked, `target_ids` before
    masking; `attention` (B, T), 1 where there is a token; `kept` (B, K), indices of the visible patches.
    `report_loss="masked"` averages over masked tokens (the paper), "all" over every position (the code).
    """
    hidden = complement(kept, model.patches)
    counted = token_ids != target_ids if report_loss == "masked" else torch.ones_like(token_ids, dtype=torch.bool)
    words = counted.flatten().nonzero().squeeze(1)
    output = model(model.shrink(image), kept, hidden, token_ids, attention, words)
    assert output.logits_WV is not None
    target = target_patches(image, model.patch_size * model.config.target_scale, hidden)
    return {
        "image": masked_patch_loss(output.pixels_BMP, target, norm_pix).mean(),
        "report": masked_token_loss(output.logits_WV, target_ids.flatten()[words].long()).mean(),
    }
