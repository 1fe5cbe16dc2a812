"""Looking before leaping: what is wrong with a run before it starts, and what it will cost."""
