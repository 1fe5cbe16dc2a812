"""The engines that people would pick instead, each in a process of its own; see stentor.bench.

They run with the Python of an optional bench environment, which need have nothing of this project's
requirements: everything here but run_transformers.py is standard library, numpy and the peer.

protocol.py          what a peer is asked, and what it answers
stored_weights.py    a checkpoint's tensors, read with numpy alone
gguf_file.py         a checkpoint as llama.cpp reads it
run_llama_cpp.py     llama.cpp through llama-cpp-python
run_openvino.py      OpenVINO GenAI
run_transformers.py  transformers' own generate
"""
