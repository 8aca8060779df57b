"""What a set in the making leaves on disk: plan, clips, claims, done shards, and in the end the manifest."""
