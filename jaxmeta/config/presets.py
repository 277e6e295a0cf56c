"""The presets of the embedded default job; a config file brings its own in `[presets.NAME]`."""

PRESETS: dict[str, dict] = {
    # A look at the machinery: a minute or two, and no figure to believe.
    "quick": {
        "task": {"test_languages": 8, "dev_languages": 4},
        "train": {"steps": 60},
        "evaluate": {"draws": 1, "shot_curve": (), "steps": (0, 10)},
    },
    # Seventeen methods, three training seeds, two fifths of the budget: a table of docs/results.md.
    "full": {
        "train": {"seeds": 3, "steps": 200},
        "evaluate": {
            "draws": 1,
            "steps": (0, 5, 20),
            "shot_curve": (),
            "methods": (
                "zero_shot",
                "target_only",
                "joint_finetune",
                "joint_cipher_finetune",
                "source_and_target",
                "linear_head",
                "prototypes",
                "tfidf",
                "ridge",
                "ridge_no_cipher",
                "protonet",
                "maml",
                "maml_rates",
                "meta_sgd",
                "anil",
                "fomaml",
                "reptile",
            ),
        },
    },
}
