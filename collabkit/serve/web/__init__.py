"""The HTTP service: what is asked, who answers, and the page; `collabkit.serve.app` puts them together."""

__all__: list[str] = []
