"""Everything with an effect: the training loop, checkpoints, logs, evaluation and reports."""
