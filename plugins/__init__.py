"""The bundled plugins, found the way everybody's are."""
