"""The decoder for the room: one worker thread per loaded model.

sampling.py   settings and the pure functions from logits to one token
cache.py      keys and values of one request, and a bounded pool of them
llama.py      weights + cache -> hidden states and logits, fp32
text.py       token -> text, never half a character
stream.py     what a front end reads of one request
scheduler.py  the waiting room: sessions take turns
engine.py     submit(request) -> Stream
"""
