"""gptkit beside transformers, CTranslate2 and llama.cpp on a CPU: the same weights, by turns."""
