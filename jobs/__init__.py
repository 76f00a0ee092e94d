"""The second door to the services: work that is done after the answer, by ``python app.py worker``."""
