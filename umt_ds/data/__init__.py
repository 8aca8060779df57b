"""From shards to batches: records and index, order and mixture, frames and augmentation, the loader."""
