"""Fine-tune on the 14 findings of NIH ChestX-ray14 with 1, 10 and 100 % of the labels, and test each model.

mrm prepare nih --source NIH --splits lists/NIH_ChestX-ray --out nih
python examples/finetune_nih.py
"""

from pathlib import Path

from mrm import recipes, runs

data, start = Path("nih"), Path("MRM.pth")  # published weights, a model folder, or a run of `mrm pretrain`

for share, labels in (("1", "train_1.txt"), ("10", "train_10.txt"), ("100", "train_list.txt")):
    recipe = recipes.find(recipes.FINETUNE, f"nih-{share}")
    run = runs.finetune(recipe.make(data / labels, data / "val_list.txt", start, Path(f"runs/nih-{share}")))
    results = runs.evaluate(run, data / "test_list.txt", run / "test")
    mean = results["classes"]["mean"]["auroc"]
    print(f"{share} %: AUROC {mean['value']:.3f} ({mean['low']:.3f} to {mean['high']:.3f}); published {recipe.expect}")
