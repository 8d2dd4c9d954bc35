"""The benchmark of images in memory compares like with like, in small."""

import argparse

from benchmarks import in_memory


def test_arrays_and_their_files_have_the_same_probabilities_and_arrays_are_not_much_slower(tmp_path):
    options = argparse.Namespace(
        encoder="vit_tiny_patch16_224", size=32, images=48, side=64, batch=16, workers=0, repeats=2
    )
    drawn = [in_memory.phantom(0, index, options.side).image for index in range(4)]
    model = in_memory.write_model(tmp_path / "model", options)
    measured = in_memory.timed(model, drawn, tmp_path, options)
    assert measured["greatest_difference_of_probabilities"] == 0
    assert max(measured["arrays_over_files"]) > 0.7  # alone on a machine about 1.2; others may disturb a turn
