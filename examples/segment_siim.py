"""Segment the pneumothoraces of SIIM-ACR, test under every Dice convention, and write masks of new images.

mrm prepare siim --source SIIM --out siim
python examples/segment_siim.py
"""

from pathlib import Path

from mrm import recipes, runs

data, start = Path("siim"), Path("MRM.pth")  # published weights, a model folder, or a run of `mrm pretrain`

recipe = recipes.find(recipes.SEGMENT, "siim-100")
run = runs.segment(recipe.make(data, data, start, Path("runs/siim-100")))
measures = runs.evaluate(run, data, run / "test")["classes"]["pneumothorax"]
for name in ("dice_positive", "dice_published", "dice_mean", "false_positives"):
    one = measures[name]
    print(f"{name}: {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f}), {one['n']} images")
print(f"published: {recipe.expect}")

runs.outline(run, [Path("new-images")], Path("new-masks"))  # PNG, and DICOM SEG for DICOM
