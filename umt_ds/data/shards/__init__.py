"""The shard contract, and the bytes of shards on disks and in stores."""
