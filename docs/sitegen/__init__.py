"""The documentation site: notebooks and docstrings in, Markdown for Material for MkDocs out (see `docs/build.py`)."""
