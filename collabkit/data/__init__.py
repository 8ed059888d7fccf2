"""Tables of interactions and of side information as encoded, validated data."""

__all__ = []
