"""Pure text, no torch: streams, what may reach a terminal, templates, prompts."""
