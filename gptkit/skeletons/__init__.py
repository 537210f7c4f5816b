"""The packages that `gptkit plugins new` writes: texts with blanks, and what fills them."""
