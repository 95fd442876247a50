"""`python -m services.feedback`."""

from services.feedback.main import serve
from shared.process import main
from shared.settings import FeedbackSettings

if __name__ == "__main__":
    main("feedback", FeedbackSettings, serve)
