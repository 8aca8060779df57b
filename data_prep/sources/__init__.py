"""Where clips come from: each module lists one kind of corpus as a `Listing`."""
