"""What trains the missing runs of an experiment: the store, the loop over pools of workers, the trainer, the W&B view.

The only place that writes under `runs/`.
"""
