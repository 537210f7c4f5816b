"""The model: one GPT in torch, its settings, its cache, and a NumPy reference to check it by."""
