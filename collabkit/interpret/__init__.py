"""What a model has learned: biases, maps, explanations, what features contribute; and a form for new users."""

from collabkit.interpret.interpretation import CollabInterpretation
from collabkit.interpret.widgets import QuestionnaireWidget

__all__ = ["CollabInterpretation", "QuestionnaireWidget"]
