"""Recipes by name, and the text written for them."""
