"""From requests to events: chain, noise, stopping, engine."""
