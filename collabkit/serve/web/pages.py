"""The page."""

__all__ = ["Pages"]


class Pages:
    def __init__(self, service):
        self.service = service

    def routes(self):
        return []
