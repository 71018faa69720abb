"""The loader runs the notebook's definitions and nothing else."""

from notebook_loader import load_definitions


def test_nothing_is_trained_or_fetched(nb):
    assert callable(nb.fit) and nb.epochs < 20
    assert not hasattr(nb, "history") and not hasattr(nb, "train_images")


def test_other_parameters_reach_what_is_made_of_them(nb):
    changed = load_definitions(max_shear=1.5, max_lr=0.03)
    assert changed.recipe["max_lr"] == 0.03
    assert changed.recipe["augmentation"] == nb.augmentation | {"max_shear": 1.5}
