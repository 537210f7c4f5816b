"""gptkit: load or train a GPT, then change how it speaks with parts that anyone can publish."""

__version__ = "0.1.0"
