"""What two sets share: the same videos by their ids, near duplicates by their pictures; lists of what to leave out."""
