"""What trains the missing runs of an experiment: the store, the trainer, the launcher, the W&B view.

The only place that writes under `runs/`.
"""
