"""Growing and pre-training Stentor models. Runs without Gradio; see `python -m training --help`."""
