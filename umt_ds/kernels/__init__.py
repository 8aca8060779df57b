"""Device maths with a plain torch reference each; nothing here knows of models, tasks or data."""
