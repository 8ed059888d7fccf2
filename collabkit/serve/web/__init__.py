"""The HTTP service: requests, answers, and the web page; `collabkit.serve.app` puts them together."""

__all__: list[str] = []
