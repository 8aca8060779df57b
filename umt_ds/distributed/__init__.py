"""Ranks and collectives on plain torch.distributed; nothing here knows DeepSpeed."""
