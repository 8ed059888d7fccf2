"""Training with fastai: batches, negatives, dataloaders, the loop, optimisers, and the learner."""

__all__ = []
