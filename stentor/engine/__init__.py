"""The decoder for the room: one worker thread per loaded model, many requests in each step.

engine.py         submit(request) -> Stream, score(text) -> records: what front ends use
requests.py       what can be asked, and how far each request has come
room.py           who waits and who holds a slot, from any thread
scheduler.py      whose turn it is: fair slots, fair prompts
worker.py         the thread that steps the decoder, and what happens when something fails
stream.py         what a front end reads of one request
text.py           token -> text, never half a character
sampling.py       settings, their order and the random numbers
precision.py      int8, fp32, bf16: what a machine can do
threads.py        the cores, shared by the models that are busy
decoder.py        what the engine asks of a model
decoders.py       which decoder, and how many slots fit into memory
cpu_decoder.py    int8 and fp32 on processors, with the kernels in cpu/
torch_decoder.py  bf16 on CUDA devices, with torch_llama, _plan, _sampling and _graphs.py
"""
